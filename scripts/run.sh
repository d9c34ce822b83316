#!/usr/bin/env bash
# The main job: bash scripts/run.sh METHOD DATASET TAU [options] [KEY VALUE ...]; --help says more.
# The other commands of python -m cpt_plugin as well: bash scripts/run.sh list, data list, doctor, report output, ...
set -euo pipefail
export CPT_CALLED_FROM="${CPT_CALLED_FROM:-$PWD}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/python.sh

case ${1:-} in
    list)
        exec "$python" -m cpt_plugin "$@"
        ;;
    data)
        python=$("$python" scripts/bootstrap.py --present run)
        exec "$python" -m cpt_plugin "$@"
        ;;
    doctor)
        would_use=$("$python" scripts/bootstrap.py --present run)
        exec "$python" -m cpt_plugin doctor --python "$would_use" "${@:2}"
        ;;
    run)
        shift
        ;;
    reproduce)
        exec bash scripts/reproduce.sh "${@:2}"
        ;;
    results | report | compare)
        python=$("$python" scripts/bootstrap.py run)
        export CPT_TOOLKIT="${CPT_TOOLKIT:-embedded}"
        exec "$python" -m cpt_plugin "$@"
        ;;
esac

for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        exec "$python" -m cpt_plugin.cli.arguments --help
    fi
done

"$python" -m cpt_plugin.cli.arguments "$@"
python=$("$python" scripts/bootstrap.py run)
export CPT_TOOLKIT="${CPT_TOOLKIT:-embedded}"
exec "$python" -m cpt_plugin run "$@"
