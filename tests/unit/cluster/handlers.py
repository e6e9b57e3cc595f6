"""Handlers for the child processes of test_isolation.py."""

import os
import signal
import sys
import time


def handle(content):
    """Do what the item says."""
    order, _, argument = content.decode().partition(" ")
    return ORDERS[order](argument)


def make():
    return handle


def make_none():
    raise ModuleNotFoundError("no such reader: pip install it\x1b[31m")


def end_at_start():
    os._exit(3)


def make_from(word):
    return lambda content: ({"word": word}, content)


def echo(text):
    return {"pid": os.getpid(), "size": len(text)}, text.encode()


def allocate(megabytes):
    block = bytearray(int(megabytes) << 20)
    return {"size": len(block)}, b""


def spin(seconds):
    begin = time.process_time()
    while time.process_time() - begin < float(seconds):
        pass
    return {}, b""


def sleep(seconds):
    time.sleep(float(seconds))
    return {}, b""


def kill(number):
    os.kill(os.getpid(), int(number))
    return {}, b""


def kill_twice(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}, b"read"


def signal_once(argument):
    """Be killed or stopped at the first call for each path."""
    number, path = argument.split()
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 2:
        os.kill(os.getpid(), int(number))
    return {}, b"read"


def write(path):
    with open(path, "wb") as file:
        file.write(b"x" * (2 << 20))
    return {}, b""


def leave(text):
    sys.stderr.write(f"a first line\n{text}\x1b[2J\n")
    sys.stderr.flush()
    os._exit(7)


def environment(_):
    return {"names": sorted(os.environ), "open": sorted(int(n) for n in os.listdir("/proc/self/fd"))}, b""


def stdin(_):
    return {}, sys.stdin.buffer.read()


def lie(size):
    """Write no reply but what says that it is a long one."""
    os.write(connection(), b"\0\0\0\2" + int(size).to_bytes(8, "big") + b"{}")
    return {}, b""


def chatter(_):
    """Write what is no JSON."""
    os.write(connection(), b"\0\0\0\5" + bytes(8) + b"[[[[[")
    return {}, b""


def reply_twice(_):
    """Write a reply beside the own one: without their numbers, the next item would get the second."""
    head = b'[2, {"first": 1}]'
    os.write(connection(), len(head).to_bytes(4, "big") + bytes(8) + head)
    return {}, b""


def connection():
    return next(
        n
        for n in range(3, 64)
        if os.path.exists(f"/proc/self/fd/{n}") and "socket" in os.readlink(f"/proc/self/fd/{n}")
    )


def noise(_):
    sys.stderr.write("warning: a strange tag\n" * 10_000)
    sys.stderr.flush()
    return {}, b""


def ignore(seconds):
    """Try to go on after the processor's time is up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    return spin(seconds)


ORDERS = {
    function.__name__: function
    for function in (
        echo,
        allocate,
        spin,
        sleep,
        kill,
        kill_twice,
        signal_once,
        reply_twice,
        write,
        leave,
        environment,
        stdin,
        lie,
        chatter,
        noise,
        ignore,
    )
}
