#!/usr/bin/env bash
# Pre-training on Cloud TPU VMs by queued resources, started again when they are preempted, until it has ended:
#   PROJECT=p ZONE=us-west4-a TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite \
#       deploy/tpu_vm.sh NAME gs://BUCKET/unimedi.tar.gz --config=configs/pretrain.py --workdir=gs://BUCKET/runs/a \
#       --config.data_dir=gs://BUCKET/records
# The archive is the repository's: git archive --format=tar.gz HEAD | gcloud storage cp - gs://BUCKET/unimedi.tar.gz
# SPOT=0 asks for machines that are not preempted. The VMs' service account reads and writes the bucket.
set -uo pipefail

name=$1 archive=$2
shift 2
poll=${POLL:-60}
where=(--project="$PROJECT" --zone="$ZONE")
queued=(gcloud compute tpus queued-resources)

state() {  # of the request; nothing where there is none; fails where Google does not say
    "${queued[@]}" describe "$name" "${where[@]}" --format='value(state.state)' 2>"$log" ||
        grep -q NOT_FOUND "$log" || { cat "$log" >&2; return 1; }
}

release() {
    "${queued[@]}" delete "$name" "${where[@]}" --force --quiet
}

request() {
    local tier=()
    [ "${SPOT:-1}" = 0 ] || tier=(--spot)
    "${queued[@]}" create "$name" "${where[@]}" --node-id="$name" --accelerator-type="$TYPE" \
        --runtime-version="$RUNTIME" "${tier[@]}"
}

on_all() {
    gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

printf -v settings ' %q' "$@" --config.distributed.coordinator=auto
install="sudo apt-get -qq update && sudo apt-get -qq install python3.11-venv && mkdir -p unimedi \
    && gcloud storage cat $archive | tar xz -C unimedi && cd unimedi && python3.11 -m venv .venv \
    && .venv/bin/pip install --quiet -c deploy/constraints.txt -r requirements-tpu.txt -r requirements-cloud.txt"
# Each host says how its process ended: gcloud's own code is that of the connections.
train="cd unimedi && .venv/bin/python main.py$settings; echo \"unimedi ended with \$?\""
log=$(mktemp) reached=

while true; do
    if now=$(state); then
        reached=yes
    elif [ "$reached" ]; then  # a failing network, not a request that has gone: another one would be refused
        now=unknown
    else
        exit 2
    fi
    case "$now" in
        "") request || exit 2 ;;
        ACTIVE)
            on_all "$install" && on_all "$train" 2>&1 | tee "$log"
            codes=$(sed -n 's/^.*unimedi ended with \([0-9]*\)$/\1/p' "$log" | sort -u | tr '\n' ' ')
            case " $codes" in
                " 0 ") release; exit 0 ;;
                *" 2 "* | *" 3 "*) echo "the run needs your action, see the last line of its log; the TPU $name was not deleted" >&2; exit 2 ;;
                *) echo "ended with ${codes:-no code}: the same command resumes from its last checkpoint" >&2 ;;
            esac
            ;;
        SUSPENDING | SUSPENDED | FAILED) release ;;  # preempted, or none to be had: asked for again
    esac
    sleep "$poll"
done
