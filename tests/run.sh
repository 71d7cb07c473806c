#!/usr/bin/env bash
# Every test of the project: Rust (units, suite, simulator, documentation), then Python: the server from outside with a
# client that is generated from proto/, images that MCUboot's imgtool and openssl make and check, and deltas against the
# reference decoder of their format. Installs what Debian lacks. One argument: a filter for the Rust tests alone.
set -euo pipefail
cd "$(dirname "$0")/.."
filter=${1:-}
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

summary="tests/run.sh: broke off before the end"
trap 'echo "$summary"' EXIT

# need PACKAGES COMMAND...: installs Debian packages unless the command succeeds.
need() {
    local packages=$1
    shift
    if "$@" >/dev/null 2>&1; then return; fi
    local root=()
    if [ "$(id -u)" -ne 0 ]; then root=(sudo); fi
    echo "tests/run.sh: installing $packages"
    "${root[@]}" apt-get update -qq
    # shellcheck disable=SC2086
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
}

python_client() {
    need "python3 python3-venv" python3 -c "import venv, ensurepip"
    # detools comes as source.
    need "python3-dev g++" sh -c 'c++ --version && test -e "$(python3 -c "import sysconfig as s; print(s.get_path(\"include\"))")/Python.h"'
    local venv=$target/venv pins=tests/python/requirements.txt
    if ! cmp -s "$pins" "$venv/installed.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$pins"
        cp "$pins" "$venv/installed.txt"
    fi
    rm -rf "$target/python" && mkdir -p "$target/python"
    "$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$target/python" \
        --grpc_python_out="$target/python" proto/fuota/v1/*.proto
}

# count WORD LOG: the sum of `N WORD` over the closing lines of the Rust test binaries.
count() { awk -v word="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" word) n += $(i - 1) } END { print n + 0 }' "$2"; }

need "gcc libc6-dev" cc --version
need openssl openssl version
cargo build --workspace --bins
rust=0 python=0 python_ok=0 python_bad=0
cargo test --workspace --no-fail-fast -- ${filter:+"$filter"} 2>&1 | tee "$target/rust-tests.log" || rust=$?
passed=$(count passed "$target/rust-tests.log") failed=$(count failed "$target/rust-tests.log")
if [ -z "$filter" ]; then
    python_client
    # They mostly wait for devices, and so they run side by side.
    rm -rf "$target/python-logs" && mkdir -p "$target/python-logs"
    runs=()
    for file in tests/python/test_*.py; do
        FUOTA_BIN_DIR=$target/debug PYTHONPATH=$target/python "$target/venv/bin/python" "$file" \
            >"$target/python-logs/$(basename "$file" .py).log" 2>&1 &
        runs+=($!)
    done
    for run in "${runs[@]}"; do wait "$run" || python=$?; done
    cat "$target"/python-logs/*.log | tee "$target/python-tests.log"
    python_ok=$(grep -c ' \.\.\. ok$' "$target/python-tests.log" || true)
    python_bad=$(grep -cE '^(FAIL|ERROR): ' "$target/python-tests.log" || true)
else
    echo "tests/run.sh: only Rust tests that match '$filter'"
fi
# A runner that breaks before it counts has failed all the same.
if [ "$rust" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
if [ "$python" -ne 0 ] && [ "$python_bad" -eq 0 ]; then python_bad=1; fi
summary="total: $((passed + python_ok)) passed, $((failed + python_bad)) failed"
exit $((rust != 0 || python != 0 ? 1 : 0))
