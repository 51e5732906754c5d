#!/bin/sh
# Stands in for docker: notes HF_TOKEN and its arguments, a line each, and ends `run` with $DOCKER_CODE.
{
  printf 'HF_TOKEN=%s\n' "${HF_TOKEN-}"
  printf '%s\n' "$@"
  echo end
} >>"$DOCKER_LOG"
[ "$1" != "${DOCKER_FAILS-}" ] || exit "$DOCKER_CODE"
