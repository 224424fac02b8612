"""Selection of the records of a source for training.

`filters` judge single records, `duplicates` and `embeddings` compare them,
`passes` runs both, `sources.selected` stores the selection and reads through
it, `report` shows dropped records. Nothing is imported here.
"""
