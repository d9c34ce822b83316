# Sets $python to a Python >= 3.11 ($PYTHON, else the first on the PATH); sourced by run.sh and test.sh.
python=
for candidate in "${PYTHON:-python3}" python python3.{11..19} .venv/bin/python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
    if [[ -n ${PYTHON:-} ]]; then break; fi
done
if [[ -z $python ]]; then
    echo "error: no Python >= 3.11 found${PYTHON:+ at PYTHON=$PYTHON}: install one, or name it: PYTHON=/path/to/python3.12 bash ..." >&2
    exit 2
fi
