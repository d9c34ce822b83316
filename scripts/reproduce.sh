#!/usr/bin/env bash
# A table of the papers: bash scripts/reproduce.sh TABLE [--world shapes|real] [--seeds 1,2] [--dry-run]; --help says more.
set -euo pipefail
export CPT_CALLED_FROM="${CPT_CALLED_FROM:-$PWD}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/python.sh

"$python" -m cpt_plugin.cli.reproduce_arguments "$@"
for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        exit 0
    fi
done
python=$("$python" scripts/bootstrap.py run)
export CPT_TOOLKIT="${CPT_TOOLKIT:-embedded}"
exec "$python" -m cpt_plugin reproduce "$@"
