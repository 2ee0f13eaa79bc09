#!/bin/sh
# build.sh PROGRAM EXTRAS WHEEL: a .deb and an .rpm of `cortex` or `neuron` in dist/, for the Python of this system.
#
# A package holds an environment of its own in /opt, with everything that the wheel's extras name. Run in the
# repository's root, with uv and nfpm on PATH; `make packages` does both programs, with man pages from build/man.
set -eu
program=$1 extras=$2 wheel=$(realpath "$3")

export PROGRAM="$program" PACKAGE ARCHITECTURE SUMMARY STAGE VERSION PYTHON PYTHON_VERSION RECOMMENDED
# A neuron on a GPU compiles what launches Triton's kernels.
case $program in  # Debian has another package named neuron
cortex) PACKAGE=cortex MODULE=cortex_site.cli.app RECOMMENDED='valkey-server | redis-server'
    SUMMARY='One OpenAI- and Anthropic-compatible API in front of a fleet of GPU hosts' ;;
neuron) PACKAGE=cortex-neuron MODULE=neuron.cli RECOMMENDED=gcc
    SUMMARY="cortex's inference daemon for a GPU host" ;;
esac
ARCHITECTURE=$(dpkg --print-architecture 2> /dev/null || uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
PYTHON_VERSION=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PYTHON=python$PYTHON_VERSION
VERSION=$(basename "$wheel" | cut -d - -f 2)
STAGE=$PWD/build/packages/$program
environment=$STAGE/opt/$program

rm -rf "$STAGE"
mkdir -p "$STAGE/etc" "$STAGE/usr/share/doc/$PACKAGE" "$STAGE/usr/share/bash-completion/completions" dist
uv venv --quiet --relocatable --python "/usr/bin/$PYTHON" "$environment"
# shellcheck disable=SC2086 # PIP_FIND_LINKS may hold several places
uv pip install --quiet --python "$environment/bin/python" --constraint constraints.txt \
    ${PIP_FIND_LINKS:+--find-links $PIP_FIND_LINKS} "cortex[$extras] @ file://$wheel"
rm -f "$environment"/lib/*/site-packages/cortex-*.dist-info/direct_url.json  # where the wheel lay
# Nobody but root may write there: compiled now, with the paths that tracebacks will show.
"$environment/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$STAGE" -p / \
    "$environment/lib" > "$STAGE/compileall.log" || true

cp "deploy/packages/$program.toml" "$STAGE/etc/"
if [ "$program" = cortex ]; then cp deploy/packages/models.toml "$STAGE/etc/"; fi
cp LICENSE "$STAGE/usr/share/doc/$PACKAGE/copyright"
if [ -f "build/man/$program.1" ]; then
    mkdir -p "$STAGE/usr/share/man/man1"
    gzip --best --no-name --stdout "build/man/$program.1" > "$STAGE/usr/share/man/man1/$program.1.gz"
fi
variable=_$(echo "$program" | tr '[:lower:]' '[:upper:]')_COMPLETE
env "$variable=source_bash" "$environment/bin/python" \
    -c "import sys; from $MODULE import main; sys.argv[0] = '$program'; main()" > "$STAGE/usr/share/bash-completion/completions/$program"
for script in postinstall preremove postremove; do
    sed "s/@PROGRAM@/$program/" "deploy/packages/$script.sh" > "build/packages/$script.sh"
done
for format in deb rpm; do
    nfpm package --config deploy/packages/nfpm.yaml --packager "$format" --target dist/
done
