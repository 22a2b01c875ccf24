#!/bin/sh
# Runs the tests: tools/pytest.sh [PYTEST ARGUMENT...]. JOBS=1 runs them in one process, one after the other.
# As root on Linux they are spread over several workers, each in a PID namespace with a /proc of its own: there a test
# sees its own processes and nobody else's, and a scan of the process table finds calm moments beside other tests.
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python

namespaced() {
    [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] && unshare --pid --fork --mount-proc true 2>/dev/null
}

jobs=${JOBS:-}
if [ -z "$jobs" ]; then
    jobs=1
    ! namespaced || jobs=$(($(nproc) * 2)) # most of a test's time is waiting
elif [ "$jobs" -gt 1 ] && ! namespaced; then
    echo "JOBS=$jobs needs root on Linux, and the right to make a PID namespace: running one by one" >&2
    jobs=1
fi
if [ "$jobs" -le 1 ]; then
    exec "$python" -m pytest "$@"
fi
exec "$python" -m pytest --dist worksteal --tx "$jobs*popen//python=$PWD/tools/worker.sh $python" "$@"
