#!/usr/bin/env bash
# One training run on all hosts of a Cloud TPU slice: the same command on every host.
#
#     gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all \
#         --command "cd jaxdet && scripts/tpu/train.sh CONFIG RUN [--train.batch-size 256 ...]"
#
# Once before that, on every host (--worker=all): the checkout, and `pip install -e '.[tpu]'`.
# On GKE this is the command of the container; the cluster says there who the hosts are.
#
# RUN and the data must lie on a file system that all hosts mount (Filestore, or a disk image for the data).
# train.batch_size counts all chips and must be a multiple of their number. A maintenance event sends SIGTERM:
# jaxdet then writes a checkpoint, on all hosts at the same step, and ends with 143; give the same command again.
#
# Not tried on a TPU yet. To adapt: PORT, where 8476 is taken.

set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG RUN [flags of jaxdet train]" >&2; exit 2; }
config=$1 run=$2
shift 2

# Outside GKE the hosts of a slice are told by the metadata server: "ip,ip" or "name:id:ip,name:id:ip".
told() {
    curl --silent --show-error --fail --header 'Metadata-Flavor: Google' \
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
if [ -z "${TPU_WORKER_HOSTNAMES:-}" ] && [ -z "${JAXDET_COORDINATOR:-}" ]; then
    endpoints=$(told worker-network-endpoints)
    IFS=, read -r -a hosts <<<"$endpoints"
    if [ "${#hosts[@]}" -gt 1 ]; then
        JAXDET_PROCESS=$(told agent-worker-number)
        export JAXDET_PROCESS
        export JAXDET_PROCESSES=${#hosts[@]}
        export JAXDET_COORDINATOR=${hosts[0]##*:}:${PORT:-8476}
    fi
fi

exec jaxdet train "$config" --out "$run" --resume "$@"
