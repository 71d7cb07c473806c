#!/usr/bin/env bash
# Proves that the checks of `fuota-sim check` find something: applies each deliberate bug of tests/mutants/ to a copy of
# the committed tree, and says which checker caught it and in which world. Takes about a minute for each, and is no part
# of tests/run.sh; its last result is the table in docs/simulation.md. Arguments: a pattern of mutants, worlds to try.
set -euo pipefail
cd "$(dirname "$0")/.."
pattern=${1:-}
seeds=${2:-500}
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/mutants"
target=$(cd "$target" && pwd)
tree=$target/mutants/tree
patches=$PWD/tests/mutants

git worktree remove --force "$tree" 2>/dev/null || true
git worktree add --quiet --detach "$tree" HEAD
trap 'git worktree remove --force "$tree"' EXIT
cd "$tree"
export CARGO_TARGET_DIR=$target/mutants/build

# check_worlds: prints "checker | worlds needed" of the tree as it is.
check_worlds() {
    local log=$target/mutants/check.log status=0
    if ! cargo build --quiet --package fuota-simulator --bin fuota-sim 2>"$log"; then
        echo "does not build | -"
        return
    fi
    timeout 300 "$CARGO_TARGET_DIR/debug/fuota-sim" check --seeds "$seeds" --quick --first >"$log" 2>&1 || status=$?
    case $status in
        0) echo "not caught | $seeds" ;;
        1) echo "$(awk '/^  / { print $2 }' "$log" | sort -u | paste -sd ' ') | $(awk '/ worlds, / { print $1 }' "$log")" ;;
        124) echo "no verdict within five minutes | -" ;;
        *) echo "the simulator breaks off with $status | -" ;;
    esac
}

echo "mutant | caught by | worlds needed"
echo "--- | --- | ---"
[ -n "$pattern" ] || echo "none | $(check_worlds)"
for patch in "$patches"/*$pattern*.patch; do
    git apply "$patch"
    echo "$(basename "$patch" .patch) | $(check_worlds)"
    git apply --reverse "$patch"
done
