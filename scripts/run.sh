#!/usr/bin/env bash
# The main job: bash scripts/run.sh METHOD DATASET TAU [options] [KEY VALUE ...]; --help says more.
set -euo pipefail
export CPT_CALLED_FROM="${CPT_CALLED_FROM:-$PWD}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/python.sh

if [[ ${1:-} == list ]]; then
    exec "$python" -m cpt_plugin "$@"
fi
if [[ ${1:-} == doctor ]]; then
    would_use=$("$python" scripts/bootstrap.py --present run)
    exec "$python" -m cpt_plugin doctor --python "$would_use" "${@:2}"
fi
for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        exec "$python" -m cpt_plugin.cli.arguments --help
    fi
done

"$python" -m cpt_plugin.cli.arguments "$@"
python=$("$python" scripts/bootstrap.py run)
export CPT_TOOLKIT="${CPT_TOOLKIT:-embedded}"
exec "$python" -m cpt_plugin run "$@"
