"""An MCP server that ignores the end of its input, TERM, HUP and INT, as some do; and starts a child that does too."""

import json
import os
import signal
import sys
import time

for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)

if os.fork() == 0:
    os.close(0)
    os.close(1)
    time.sleep(600)

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    result: dict[str, object] = {}
    if message["method"] == "initialize":
        version = message["params"]["protocolVersion"]
        info = {"name": "stubborn", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    elif message["method"] == "tools/list":
        result = {"tools": []}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
    sys.stdout.flush()
time.sleep(600)
