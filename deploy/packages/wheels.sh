#!/bin/sh
# wheels.sh VERSION...: a source distribution, and from it a wheel for each of these Pythons that is here, in dist/.
#
# A Python is looked for on PATH and where pyenv and uv keep theirs. A wheel is for every Linux whose C library is as new
# as this machine's. Run in the repository's root, with uv and auditwheel on PATH, as `make dist` does.
set -eu
built=build/dist

interpreter() {
    PYENV_VERSION=$1 "python$1" -c 'import sys; print(sys.executable)' 2> /dev/null ||
        uv python find --no-python-downloads "$1" 2> /dev/null
}

build() {
    uv build --quiet --build-constraints constraints.txt --out-dir "$built" "$@" 2> "$built.log" ||
        { cat "$built.log" >&2; exit 1; }
}

rm -rf dist "$built"
mkdir -p dist build
build --sdist
for version in "$@"; do
    python=$(interpreter "$version") ||
        { echo "Python $version is not installed here: no wheel for it." >&2; continue; }
    build --wheel --python "$python" "$built"/*.tar.gz
done
for wheel in "$built"/*.whl; do
    auditwheel repair --strip --wheel-dir dist "$wheel" >> "$built.log" 2>&1 ||
        { echo "Not a manylinux wheel: it is for machines like this one." >&2; cp "$wheel" dist/; }
done
cp "$built"/*.tar.gz dist/
ls -1 dist/*
