#!/usr/bin/env bash
# Prepares the virtual environment of the Django test origin: setup.sh VENV_DIR
# Does nothing when the environment already matches requirements.txt. Safe to run several times at once.
set -euo pipefail

say() { printf 'django setup: %s\n' "$*"; }
fail() { printf 'django setup: error: %s\n' "$1" >&2; printf 'django setup: remedy: %s\n' "$2" >&2; exit 1; }

[ $# -eq 1 ] && [ -n "$1" ] || fail "expected one argument, the directory of the virtual environment" \
    "run: $0 target/django-venv"

requirements="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/requirements.txt"

command -v python3 >/dev/null || fail "python3 was not found" "install Python 3.10 or later"
command -v flock >/dev/null || fail "flock was not found" "install util-linux"

mkdir -p "$(dirname "$1")"
venv="$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
stamp="$venv/.requirements-stamp"

# The path and the interpreter count too: scripts in a virtual environment name both, so neither may change unnoticed.
wanted="$(python3 - "$requirements" "$venv" <<'PY'
import hashlib, sys
requirements, venv = sys.argv[1:]
if sys.version_info < (3, 10):
    sys.exit("django setup: error: Python 3.10 or later is needed, found " + sys.version.split()[0]
             + "\ndjango setup: remedy: put a newer python3 first in PATH")
digest = hashlib.sha256(open(requirements, "rb").read()).hexdigest()
print(digest, sys.version.split()[0], venv)
PY
)"

up_to_date() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; }

if up_to_date; then say "$venv is up to date"; exit 0; fi

exec 9>"$venv.lock"
if ! flock --nonblock 9; then
    say "waiting for another setup of $venv"
    flock 9
fi
# Whoever held the lock before us has probably done the work.
if up_to_date; then say "$venv is up to date"; exit 0; fi

python3 -c 'import venv, ensurepip' 2>/dev/null ||
    fail "the venv module of $(command -v python3) is missing or incomplete" \
    "on Debian or Ubuntu: apt-get install python3-venv; elsewhere install a complete Python 3"

# The directory is emptied below, so it must be ours.
if [ -d "$venv" ] && [ -n "$(ls -A "$venv")" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    fail "$venv exists and is no virtual environment" "name another directory, or remove this one"
fi

say "creating $venv"
rm -f "$stamp"
python3 -m venv --clear "$venv" || fail "python3 -m venv failed" "read the message above"

say "installing $(grep -c '==' "$requirements") packages"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" ||
    fail "pip could not install $requirements" "check the network or the configuration of pip, then run this again"

# Written last and in one step: a stamp always stands for a complete environment.
printf '%s\n' "$wanted" >"$stamp.new"
mv "$stamp.new" "$stamp"
say "ready: $venv"
