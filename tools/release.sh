#!/bin/sh
# Builds the wheel and the sdist of what is committed, and tries both where nothing else of this checkout is installed.
#   tools/release.sh [FOLDER]       keep what was built in FOLDER
#   CORRAL_HOME_URL=https://…       the address of the repository: links of the README become absolute, for an index page,
#                                   and the package names its addresses
# Nothing is uploaded.
set -eu
cd "$(dirname "$0")/.."
repository=$(pwd)
keep=${1:-}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/corral/__init__.py)
work=$(mktemp -d "${TMPDIR:-/tmp}/corral-release-XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
chmod 755 "$work" # the demo starts its agent under another account

say() { printf 'release: %s\n' "$*"; }

export PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir "$work/source" "$work/dist"
git archive HEAD | tar -x -C "$work/source"
if [ -n "${CORRAL_HOME_URL:-}" ]; then
    HOME_URL=$CORRAL_HOME_URL VERSION=$version .venv/bin/python - "$work/source" <<'EOF'
import os, re, sys
from pathlib import Path

source, home, tag = Path(sys.argv[1]), os.environ["HOME_URL"].rstrip("/"), f"v{os.environ['VERSION']}"
readme = source / "README.md"
text = re.sub(r"(!\[[^]]*\])\((?!https?:)([^)]+)\)", rf"\1({home}/raw/{tag}/\2)", readme.read_text())
readme.write_text(re.sub(r"(?<!\!)(\[[^]]*\])\((?!https?:|#)([^)]+)\)", rf"\1({home}/blob/{tag}/\2)", text))
project = source / "pyproject.toml"
urls = {"Homepage": home, "Documentation": f"{home}/blob/{tag}/docs/index.md", "Source": home}
urls |= {"Issues": f"{home}/issues", "Changelog": f"{home}/blob/{tag}/CHANGELOG.md"}
lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
project.write_text(project.read_text().replace("[tool.hatch.version]", f"[project.urls]\n{lines}\n[tool.hatch.version]"))
EOF
fi

say "building $version"
.venv/bin/python -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build twine
"$work/tools/bin/python" -m build --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1 || {
    cat "$work/build.log"
    exit 1
}
"$work/tools/bin/python" -m twine check --strict "$work/dist"/*

say "the wheel, in a clean environment: its demo"
.venv/bin/python -m venv "$work/clean"
"$work/clean/bin/pip" install --quiet "$(echo "$work"/dist/*.whl)[codex]"
(cd / && "$work/clean/bin/corral" --version && "$work/clean/bin/corral" demo </dev/null)

say "the sdist: some of its tests, from its own folder"
tar -x -z -f "$work"/dist/*.tar.gz -C "$work"
cd "$work/corral-$version"
PYTHONPATH=$PWD/src "$repository/.venv/bin/python" - <<'EOF'
import corral, os
assert corral.__file__.startswith(os.getcwd()), f"{corral.__file__} is not the sdist's"
EOF
PYTHONPATH=$PWD/src "$repository/.venv/bin/python" -m pytest -q -p no:cacheprovider -p no:randomly -m "not slow" \
    tests/test_ledger.py tests/test_config.py tests/test_wire.py tests/test_docs.py
cd "$repository"

if [ -n "$keep" ]; then
    mkdir -p "$keep"
    cp "$work"/dist/* "$keep"
    say "built: $(ls "$keep" | tr '\n' ' ')"
fi
say "all of it works"
