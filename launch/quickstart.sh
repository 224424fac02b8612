#!/bin/sh
# The main job from nothing: train, be preempted, resume, sample, interpolate,
# score, export, report. Safe to run again: training resumes where it stands.
set -eu
BIN=${BIN:-.venv/bin}
RUN=${RUN:-runs/quickstart}
CONFIG=${CONFIG:-configs/quickstart.py}
STOP_AT=${STOP_AT:-600}
PHOTOS='builtin:photos/heldout'
i2i() { "$BIN/i2i-prior" "$@"; }

if [ ! -d "$RUN/checkpoints/$STOP_AT" ]; then
    echo "== train; SIGTERM once step $STOP_AT is saved, as a cluster would"
    "$BIN/i2i-prior" train --config "$CONFIG" --workdir "$RUN" &
    trainer=$!
    while kill -0 "$trainer" 2>/dev/null; do
        if [ -d "$RUN/checkpoints/$STOP_AT" ]; then
            kill -TERM "$trainer" || true
            break
        fi
        sleep 1
    done
    code=0
    wait "$trainer" || code=$?
    # 75: saved, please requeue. 0: it was done before the signal came.
    [ "$code" = 75 ] || [ "$code" = 0 ] || exit "$code"
fi

echo "== resume: the same command on the same workdir"
i2i train --config "$CONFIG" --workdir "$RUN"

echo "== variations of held-out photographs, and a walk between two"
i2i sample --workdir "$RUN" --images "$PHOTOS" --num 6 --out "$RUN/variations"
for kind in png gif; do
    i2i interpolate --workdir "$RUN" --start "$PHOTOS#coffee.png" \
        --end "$PHOTOS#flower.jpg" --frames 10 \
        --out "$RUN/interpolations/coffee-flower.$kind"
done

echo "== scores on held-out crops, weights, report"
i2i evaluate --workdir "$RUN"
i2i export --workdir "$RUN" --out "$RUN/prior.safetensors"
[ -d "$RUN/torch" ] || i2i export --workdir "$RUN" --format torch \
    --out "$RUN/torch"
i2i report --workdir "$RUN"
