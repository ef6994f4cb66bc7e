"""The other end of the interoperability tests: trove's own serializers, as
Debian's python3-trove has them, on unmodified oslo.messaging.

It reads one JSON object (url, exchange, instance_id, instance_key, master_key,
encrypted_key, task_key), serves as task manager, conductor and guest agent for
the topics py-*, says that it is ready, then calls and casts to the topics go-*,
and prints a JSON line for everything that reached it or came back, until its
standard input ends.
"""

import json
import sys
import threading

from oslo_config import cfg
import oslo_messaging as messaging

from trove.common import cfg as trove_cfg  # noqa: F401, registers the options
from trove.common import crypto_utils
from trove.common.context import TroveContext
from trove.common.rpc import conductor_guest_serializer as csz
from trove.common.rpc import conductor_host_serializer as hsz
from trove.common.rpc import secure_serializer as ssz
from trove.common.rpc import serializer as sz

TOLD = json.loads(sys.stdin.readline())
OUTPUT = threading.Lock()


def say(**line):
    with OUTPUT:
        print(json.dumps(line), flush=True)


# What trove.instance.models does with the row that it reads from the database.
hsz.get_instance_encryption_key = lambda instance_id: crypto_utils.decrypt_data(
    crypto_utils.decode_data(TOLD["encrypted_key"]), TOLD["master_key"]).decode()

cfg.CONF([], project="trove", default_config_files=[])
cfg.CONF.set_override("guest_id", TOLD["instance_id"])
messaging.set_transport_defaults(TOLD["exchange"])
TRANSPORT = messaging.get_rpc_transport(cfg.CONF, url=TOLD["url"])


class Endpoint:
    target = messaging.Target(version="1.3")

    def __init__(self, name):
        self.name = name

    def echo(self, ctxt, **args):
        say(got=self.name, args=args, request_id=ctxt.request_id, user=ctxt.user)
        return {"echo": args}

    def nothing(self, ctxt):
        return None

    def fail(self, ctxt):
        raise ValueError("no")


def context():
    return TroveContext(user="jo", project_id="p", is_admin=True, request_id="req-py")


def serve(name, topic, serializer):
    server = messaging.get_rpc_server(TRANSPORT, messaging.Target(topic=topic, server="py"), [Endpoint(name)],
                                      executor="threading", serializer=serializer)
    server.start()
    return server


def client(topic, serializer):
    return messaging.RPCClient(TRANSPORT, messaging.Target(topic=topic, version="1.0"), serializer=serializer, timeout=30)


def base():
    return sz.TroveRequestContextSerializer(None)


SERVERS = [
    serve("taskmanager", "py-taskmanager", ssz.SecureSerializer(base(), TOLD["task_key"])),
    serve("guest", "guestagent." + TOLD["py_instance_id"], ssz.SecureSerializer(base(), TOLD["instance_key"])),
    serve("conductor", "py-conductor", hsz.ConductorHostSerializer(base(), None)),
]
say(ready=True)
VALUES = {"text": "gr\u00fc\u00df\u20ac/", "number": 1.5, "none": None, "list": [{"_password": "s3cret"}], "digits": "123"}
client("go-taskmanager", ssz.SecureSerializer(base(), TOLD["task_key"])).cast(context(), "echo", **VALUES)
client("go-conductor", csz.ConductorGuestSerializer(base(), TOLD["instance_key"])).cast(context(), "echo", **VALUES)
GUEST = client("guestagent." + TOLD["instance_id"], ssz.SecureSerializer(base(), TOLD["instance_key"]))
say(answer=GUEST.call(context(), "echo", **VALUES))
say(answer=GUEST.call(context(), "nothing"))
try:
    GUEST.call(context(), "fail")
except Exception as e:
    say(raised=str(e).splitlines()[0])
for line in sys.stdin:
    pass
for server in SERVERS:
    server.stop()
    server.wait()
