#!/usr/bin/env bash
# The two steps of action.yml: `verify` runs the claim, `comment` writes its result on the pull request, if there is one.
set -euo pipefail
result="$RUNNER_TEMP/autoresearch-verify.json"
body="$RUNNER_TEMP/autoresearch-verify.md"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

case "${1:-}" in
verify)
    rm -f "$result"
    program=(uv run autoresearch)
    # If no environment of the checkout has it, take that of the action, which `uses` pins.
    if ! grep -qs '^name = "autoresearch"' pyproject.toml uv.lock; then
        uv tool install --quiet --force "$here/.."
        program=("$(uv tool dir --bin)/autoresearch")
    fi
    "${program[@]}" verify --seeds "$SEEDS" --json -- "$CLAIM" > "$result"
    ;;
comment)
    python3 "$here/comment.py" "$result" > "$body"
    cat "$body" >> "$GITHUB_STEP_SUMMARY"
    if [ -z "${PULL_REQUEST:-}" ]; then
        exit 0
    fi
    comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
    mark=$(head -n 1 "$body")
    own=".[] | select(.user.type == \"Bot\") | select(.body | startswith(\"$mark\")) | .id"
    # The token of a pull request from a fork may not comment. The result is in the summary, and the claim is no worse.
    warning="::warning::cannot comment on pull request $PULL_REQUEST; the result is in the summary of the job"
    earlier=$(gh api --paginate "$comments" --jq "$own" | tail -n 1) || earlier=
    if [ -n "$earlier" ]; then
        gh api --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$earlier" --field "body=@$body" --silent
    else
        gh api --method POST "$comments" --field "body=@$body" --silent
    fi || echo "$warning"
    ;;
*)
    echo "usage: verify.sh verify|comment" >&2
    exit 2
    ;;
esac
