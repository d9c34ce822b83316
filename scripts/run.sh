#!/usr/bin/env bash
# The main job: bash scripts/run.sh METHOD DATASET TAU [options] [KEY VALUE ...]; --help says more.
# The other commands of python -m cpt_plugin as well: bash scripts/run.sh list, data list, doctor, report output, ...
set -euo pipefail
export CPT_CALLED_FROM="${CPT_CALLED_FROM:-$PWD}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/python.sh

if [[ ${1:-} == help ]]; then
    set -- "${@:2}" --help
fi
verb=run
case ${1:-} in
    run | reproduce | results | figures | compare | report | list | data | doctor)
        verb=$1
        shift
        ;;
    --version)
        exec "$python" -m cpt_plugin --version
        ;;
esac

for word in "$@"; do # nothing is installed to show a help
    if [[ $word == -h || $word == --help ]]; then
        case $verb in
            run) exec "$python" -m cpt_plugin.cli.arguments "$@" ;;
            reproduce) exec "$python" -m cpt_plugin.cli.reproduce_arguments "$@" ;;
            *) exec "$python" -m cpt_plugin "$verb" "$@" ;;
        esac
    fi
done

case $verb in
    list | data)
        python=$("$python" scripts/bootstrap.py --present run)
        exec "$python" -m cpt_plugin "$verb" "$@"
        ;;
    doctor)
        would_use=$("$python" scripts/bootstrap.py --present run)
        exec "$python" -m cpt_plugin doctor --python "$would_use" "$@"
        ;;
    reproduce)
        exec bash scripts/reproduce.sh "$@"
        ;;
    run)
        present=$("$python" scripts/bootstrap.py --present run) # which knows the parts of packages that are installed
        "$present" -m cpt_plugin.cli.arguments "$@"
        ;;
esac
python=$("$python" scripts/bootstrap.py run)
export CPT_TOOLKIT="${CPT_TOOLKIT:-embedded}"
exec "$python" -m cpt_plugin "$verb" "$@"
