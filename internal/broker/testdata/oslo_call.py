"""One server and one client of oslo.messaging, unmodified, over argv[1].

Prints "ok" after a call, a call that times out for want of a server, a remote
error, a cast and a fanout.
"""
import os
import sys
import threading

from oslo_config import cfg
import oslo_messaging as messaging

cast = threading.Event()


class Endpoint:
    target = messaging.Target(version='1.3')

    def echo(self, ctxt, text):
        return {'text': text, 'by': ctxt['who']}

    def fail(self, ctxt):
        raise ValueError('no')

    def noted(self, ctxt):
        cast.set()


def main(url):
    conf = cfg.CONF
    conf([], project='smoke')
    transport = messaging.get_rpc_transport(conf, url)
    server = messaging.get_rpc_server(
        transport, messaging.Target(topic='topic', server='host', exchange='trove'),
        [Endpoint()], executor='threading')
    server.start()
    client = messaging.get_rpc_client(
        transport, messaging.Target(topic='topic', exchange='trove', version='1.0'), timeout=30)
    for n in (1, 70000, 300000):
        got = client.call({'who': 'me'}, 'echo', text='\u00e9' * n)
        assert got == {'text': '\u00e9' * n, 'by': 'me'}, n
    assert client.prepare(server='host').call({'who': 'x'}, 'echo', text='')['by'] == 'x'
    try:
        client.call({}, 'fail')
    except ValueError as e:
        assert str(e).startswith('no\n'), e
    else:
        raise AssertionError('no remote error')
    try:
        client.prepare(topic='nobody', timeout=1).call({}, 'echo', text='')
    except messaging.MessagingTimeout:
        pass
    else:
        raise AssertionError('no timeout')
    for how in ({}, {'fanout': True}):
        cast.clear()
        client.prepare(**how).cast({}, 'noted')
        assert cast.wait(30), how
    server.stop()
    server.wait()
    transport.cleanup()
    print('ok', flush=True)
    os._exit(0)  # oslo.messaging's metrics thread would hold it up for 10 s


main(sys.argv[1])
