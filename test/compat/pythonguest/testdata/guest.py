"""An agent of the original's as far as its bus goes: unmodified oslo.messaging,
and the methods of trove.guestagent.datastore.manager.Manager with their own
parameters, which do nothing.

guest.py URL EXCHANGE INSTANCE   serves the instance's topic until its standard
                                 input ends; prints a JSON line when it is ready
                                 and for each message: its method, version and
                                 arguments, and what came of it
"""

import json
import logging
import sys
import threading

from oslo_config import cfg
import oslo_messaging as messaging
from oslo_messaging.rpc import dispatcher, server

OUTPUT = threading.Lock()


def say(**line):
    with OUTPUT:
        print(json.dumps(line), flush=True)


class Guest:
    target = messaging.Target(version="1.3")  # API_LATEST_VERSION

    def prepare(self, context, packages, databases, memory_mb, users, device_path=None, mount_point=None,
                backup_info=None, config_contents=None, root_password=None, overrides=None, cluster_config=None,
                snapshot=None, modules=None, ds_version=None):
        pass

    def rpc_ping(self, context):
        return True

    def start_db_with_conf_changes(self, context, config_contents, ds_version):
        pass

    def stop_db(self, context):
        pass

    def restart(self, context):
        pass

    def reset_configuration(self, context, configuration):
        pass

    def mount_volume(self, context, device_path=None, mount_point=None, write_to_fstab=False):
        pass

    def unmount_volume(self, context, device_path=None, mount_point=None):
        pass

    def resize_fs(self, context, device_path=None, mount_point=None, online=False):
        pass


class ContextSerializer(messaging.NoOpSerializer):
    def serialize_context(self, context):
        return context

    def deserialize_context(self, context):
        return context


class Recording(dispatcher.RPCDispatcher):
    def dispatch(self, incoming):
        m, failed = incoming.message, None
        try:
            return super().dispatch(incoming)
        except Exception as e:
            failed = "%s: %s" % (type(e).__name__, e)
            raise
        finally:
            say(method=m.get("method"), version=m.get("version"), args=m.get("args"), namespace=m.get("namespace"),
                call=bool(incoming.msg_id), failed=failed)


def main(url, exchange, instance):
    logging.disable(logging.ERROR)  # what it does not know is told by say
    conf = cfg.CONF
    conf([], project="guest", default_config_files=[])
    messaging.set_transport_defaults(exchange)
    t = messaging.get_rpc_transport(conf, url=url)
    target = messaging.Target(topic="guestagent." + instance, server=instance, version="1.3")
    s = server.RPCServer(t, target, Recording([Guest()], ContextSerializer()), "threading")
    s.start()
    say(ready=True)
    sys.stdin.read()
    s.stop()
    s.wait()
    t.cleanup()


main(*sys.argv[1:])
