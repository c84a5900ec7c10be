"""Runs commands of the package, each in a process of its own that need not import torch first.

`python command_server.py serve <socket>` imports everything once and forks for each command that
`python command_server.py run <socket> <command> …` sends; that one's files, folder and environment are the command's.
"""

import atexit
import json
import os
import signal
import socket
import sys
import traceback

SMALL = "MNV2VISION_TESTS_SMALL"
"""Environment variable: what to append to the arguments of each command, as JSON."""


def serve(path: str) -> None:
    import mnv2vision.cli.check
    import mnv2vision.cli.eval
    import mnv2vision.cli.export
    import mnv2vision.cli.predict
    import mnv2vision.cli.train
    import mnv2vision.cli.tune
    import mnv2vision.engine.check
    import mnv2vision.engine.evaluate
    import mnv2vision.engine.export
    import mnv2vision.engine.train
    import mnv2vision.inference.files  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes: they answer themselves
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        status = 1
        try:
            status = _answer(connection)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            connection.sendall(bytes([status & 255]))
            os._exit(status)


def _answer(connection: socket.socket) -> int:
    from mnv2vision.cli.main import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    (length,), files, *_ = socket.recv_fds(connection, 1, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
    size = int.from_bytes(connection.recv(length, socket.MSG_WAITALL))
    folder, environment, (command, *arguments) = json.loads(connection.recv(size, socket.MSG_WAITALL))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mnv2vision", command, *arguments]
    return main([command, *arguments, *json.loads(os.environ.get(SMALL, "{}")).get(command, [])])


def run(path: str, *command: str) -> int:
    content = json.dumps([os.getcwd(), dict(os.environ), command]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [bytes([8])], [0, 1, 2])
        connection.sendall(len(content).to_bytes(8) + content)
        return (connection.recv(1) or b"\x01")[0]


if __name__ == "__main__":
    sys.exit({"serve": serve, "run": run}[sys.argv[1]](*sys.argv[2:]))
