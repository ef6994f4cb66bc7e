"""Runs lines of the stock openstack client, one per line of its input.

Loading the client takes more than a second, running a command far less. So it
is loaded once and every line runs in a child of its own, with nothing left by
the line before. A line is a JSON list of arguments; the answer is a JSON object
of the exit code and of what went to the two outputs.
"""
import contextlib
import gc
import io
import json
import os
import sys
import tempfile

from openstackclient import shell

# Loads the plug-ins and the modules of their commands for all children.
with contextlib.redirect_stdout(io.StringIO()):
    shell.main(["database", "flavor", "list"])
gc.freeze()


def run(arguments):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                sys.argv = ["openstack"] + arguments
                code = shell.main(arguments)
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code or 0)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        errors.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": out.read().decode(),
            "errors": errors.read().decode(),
        }


for line in sys.stdin:
    json.dump(run(json.loads(line)), sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()
