"""Caption cleaning of DeepFloyd IF, PixArt-alpha and Lumos.

These models were trained on cleaned captions only. The rules and their order
are those of `T5Embedder.clean_caption` in DeepFloyd's and PixArt's code,
quirks included: one pass can leave text that a second pass removes, and they
make two.
"""

import html
import re
import urllib.parse
import warnings
from collections.abc import Iterable
from types import ModuleType

from i2i_prior.errors import UserError

Rule = tuple[re.Pattern[str], str]  # pattern, replacement

_SITE = r"[a-z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILE = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_DASHES = (
    r"\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b"
    r"\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)


def _rules(*rules: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(regex), new) for regex, new in rules)


# While the text is still HTML; it is in lower case by then.
_ADDRESSES = _rules(
    ("<person>", "person"),  # stands for a name in some datasets
    # The start of a URL, and a site with its path unless @ follows. The
    # second finds the sites that taking away the first has made.
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_SITE})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_SITE})", ""),
)

_CHARACTERS = _rules(
    (r"@\w+", ""),  # @nickname
    # CJK strokes, enclosed letters, compatibility forms, all ideographs and
    # the hexagrams; kana and Hangul stay
    (r"[\u31c0-\u9fff]+", ""),
    (f"[{_DASHES}]+", "-"),  # every kind of dash
    (r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),  # `´«»“”¨
    (r"[\u2018\u2019]", "'"),  # ‘’
    # entities that were escaped twice
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP address
    (r"\d:\d\d\s+$", ""),  # number of an article, at the end
    (r"\\n", " "),  # a newline that was written out
    (r"#(?:\d{1,3}|\d{5,})\b", ""),  # #123 and #12345, not #2024
    (r"\b\d{6,}\b", ""),  # long number
    (rf"\S+\.{_FILE}", ""),  # name of a file
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\][}{|\\/*]+", " "),  # ***sold out***
    (r"\s+\.\s+", " "),  # a full stop on its own
)

_WORDS = _rules(
    # codes of products: jc6640, jc6640vc, 6640vc231
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    # phrases of shops and stock photo sites
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILE}(\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    # 40x60, also with the Cyrillic letter or the multiplication sign
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),
    # punctuation and its spaces
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)

_ENDS = _rules(
    (r"""^["']([\w\W]+)["']$""", r"\1"),  # quotes around it all
    ("^['_,:;-]", ""),
    ("['_,:+-]$", ""),
    (r"^\.\S+$", ""),  # nothing left but .something
)

_JOINT = re.compile("[-_]")


def clean_caption(text: str) -> str:
    """One pass of the cleaning.

    Lower case; URLs, markup, nicknames, Chinese characters, addresses, file
    names, numbers, product codes, sizes and sales talk go; quotes, dashes and
    spaces become of one kind. Equal to DeepFloyd's and PixArt's. (diffusers'
    copy does not strip the text half way and so can keep quotes for the second
    pass.) The text may have HTML or URL escapes.

    UserError if beautifulsoup4 or ftfy is not installed.
    """
    bs4, ftfy = _packages()
    text = urllib.parse.unquote_plus(str(text)).strip().lower()
    text = _apply(_ADDRESSES, text)
    with warnings.catch_warnings():
        # It warns of a caption that looks like the name of a file.
        warnings.simplefilter("ignore")
        text = bs4.BeautifulSoup(text, features="html.parser").text
    text = _apply(_CHARACTERS, text)
    if len(_JOINT.findall(text)) > 3:  # this-is-my-cute-cat
        text = _JOINT.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _apply(_ENDS, _apply(_WORDS, text)).strip()


def clean_captions(texts: Iterable[str]) -> list[str]:
    """Captions for PixArt's and Lumos' text encoders: `clean_caption` twice."""
    return [clean_caption(clean_caption(text)) for text in texts]


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for regex, new in rules:
        text = regex.sub(new, text)
    return text


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import bs4
        import ftfy
    except ImportError as error:
        raise UserError(
            f"cleaning captions needs beautifulsoup4 and ftfy ({error}); "
            "pip install 'i2i-prior[text]'"
        ) from error
    return bs4, ftfy
