#!/usr/bin/env bash
# The tests: bash scripts/test.sh [arguments of pytest]; the long forms: bash scripts/test.sh -m long
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/python.sh

python=$("$python" scripts/bootstrap.py test)
export OMP_NUM_THREADS=1
export CPT_TOOLKIT="${CPT_TOOLKIT:-embedded}"
exec "$python" -m pytest -n 2 --dist loadfile -m "not long" "$@"
