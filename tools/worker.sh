#!/bin/sh
# Runs a command as the first child of a PID namespace's own init, with a /proc of the namespace: a test worker's world.
# The shell is that init: it collects orphans, and when the command ends, so does everything in the namespace.
exec unshare --pid --fork --mount-proc --kill-child sh -c '"$@"; exit $?' init "$@"
