"""The other end of the interoperability tests: unmodified oslo.messaging.

peer.py client URL EXCHANGE TOPIC   makes requests of a server in Go and prints
                                    what came of each as one JSON object
peer.py server URL EXCHANGE TOPIC   serves TOPIC until its standard input ends;
                                    prints a JSON line when ready and for each
                                    cast that it gets
peer.py declare URL EXCHANGE TOPIC  as server, and calls itself before it prints
                                    that it is ready, with what came of that
"""

import functools
import json
import sys
import threading
import types

from oslo_config import cfg
import oslo_messaging as messaging


class TroveError(Exception):
    """As Trove's exceptions do: a format, filled with the keyword arguments."""

    message = "An unknown exception occurred"

    def __init__(self, message=None, **kwargs):
        self.message = message or self.message
        self.kwargs = kwargs
        super().__init__(self.message % kwargs if kwargs else self.message)


def exceptions():
    """The module that Trove allows exceptions to be rebuilt from."""
    module = types.ModuleType("trove.common.exception")
    formats = {
        "GuestError": "An error occurred communicating with the guest: %(original_message)s.",
        "NotFound": "Resource %(uuid)s cannot be found.",
        "BadRequest": "The server could not comply with the request.",
        "UnprocessableEntity": "Unable to process the contained request.",
    }
    module.TroveError = TroveError
    for name, text in formats.items():
        setattr(module, name, type(name, (TroveError,), {"message": text, "__module__": module.__name__}))
    for parent in ("trove", "trove.common"):
        sys.modules[parent] = types.ModuleType(parent)
    sys.modules[module.__name__] = module
    return module


EXCEPTIONS = exceptions()
OUTPUT = threading.Lock()


def say(**line):
    with OUTPUT:
        print(json.dumps(line), flush=True)


class ContextSerializer(messaging.NoOpSerializer):
    def serialize_context(self, ctxt):
        return ctxt

    def deserialize_context(self, ctxt):
        return ctxt


def transport(url, exchange):
    conf = cfg.CONF  # the library registers some options only there
    conf([], project="peer", default_config_files=[])
    messaging.set_transport_defaults(exchange)
    return messaging.get_rpc_transport(conf, url=url, allowed_remote_exmods=[EXCEPTIONS.__name__])


def attempt(f):
    """What came of a call."""
    try:
        return {"result": f()}
    except Exception as e:
        told = {"raised": type(e).__name__, "base": type(e).__mro__[1].__name__, "text": str(e)}
        if isinstance(e, messaging.RemoteError):
            told["exc_type"] = e.exc_type
        return told


def client(url, exchange, topic):
    context = {"user": "u1", "project_id": "p1", "request_id": "req-py", "is_admin": True, "roles": ["admin"],
               "trove_notification": {"request_id": "req-py", "server_type": "taskmanager"}}
    t = transport(url, exchange)
    c = messaging.RPCClient(t, messaging.Target(topic=topic, version="1.3"), serializer=ContextSerializer())
    def call(method, version="1.0", timeout=60, server=None, monitor=None, **kwargs):
        options = {"version": version, "timeout": timeout}
        if server:
            options["server"] = server
        if monitor:
            options["call_monitor_timeout"] = monitor
        return attempt(lambda: c.prepare(**options).call(context, method, **kwargs))

    values = {"s": "å 😀 \"<&>", "n": None, "i": 12345678901234567890, "f": 1.5, "l": [1, [2]], "o": {"k": True}}
    told = {
        "echo": call("echo", value=values),
        "values": values,
        "server": call("echo", value="by name", server="host-1"),
        "context": call("context"),
        "ping": call("oslo_rpc_server_ping"),
        "not_found": call("not_found"),
        "guest_error": call("guest_error"),
        "internal": call("internal"),
        "no_method": call("nope"),
        "version": call("echo", version="1.9", value=1),
        "arguments": call("strict", number="not a number"),
        "slow": call("slow", monitor=2),
        "nobody": attempt(lambda: messaging.RPCClient(t, messaging.Target(topic=topic + "-nobody"))
                          .prepare(timeout=1).call(context, "m")),
        "cast": attempt(lambda: c.cast(context, "note", text="cast")),
        "fanout": attempt(lambda: c.prepare(fanout=True).cast(context, "note", text="fanout")),
    }
    # Several calls at once share one reply queue.
    results = [None] * 10
    def one(i):
        results[i] = call("echo", value=i).get("result")
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told["many"] = results
    say(**told)
    t.cleanup()


class Endpoint:
    target = messaging.Target(version="1.3")

    def echo(self, ctxt, value):
        return value

    def context(self, ctxt):
        return {k: v for k, v in ctxt.items()}

    def guest_error(self, ctxt):
        raise EXCEPTIONS.GuestError(original_message="disk full")

    def not_found(self, ctxt):
        raise EXCEPTIONS.NotFound(uuid="u-1")

    def builtin(self, ctxt):
        raise ValueError("no good")

    def note(self, ctxt, text):
        say(note=text, request_id=ctxt.get("request_id"))


def server(url, exchange, topic, call=False):
    t = transport(url, exchange)
    s = messaging.get_rpc_server(t, messaging.Target(topic=topic, server="py-1"), [Endpoint()],
                                 executor="threading", serializer=ContextSerializer())
    s.start()
    told = {}
    if call:
        c = messaging.RPCClient(t, messaging.Target(topic=topic, version="1.3"), serializer=ContextSerializer())
        told = attempt(lambda: c.prepare(timeout=30).call({}, "echo", value="declared"))
    say(ready=True, **told)
    sys.stdin.read()
    s.stop()
    s.wait()
    t.cleanup()


if __name__ == "__main__":
    {"client": client, "server": server, "declare": functools.partial(server, call=True)}[sys.argv[1]](*sys.argv[2:])
