"""Create what a fresh cloud needs, idempotently, with plain REST calls.

seed.py identity|cloud API_IP PASSWORD REGION      (run inside the pod by `up`)
"""
import os
import subprocess
import sys
import time

from keystoneauth1 import session
from keystoneauth1.identity import v3

phase, ip, pw, region = sys.argv[1:5]
services = set(os.environ["OSLAB_SERVICES"].split())


def login(user, project):
    return session.Session(auth=v3.Password(
        f"http://{ip}:5000/v3", username=user, password=pw, project_name=project,
        user_domain_name="Default", project_domain_name="Default"))


adm = login("admin", "admin")


class Api:
    def __init__(self, sess, base):
        self.s, self.b = sess, base

    def __call__(self, method, path, body=None, ok=(), headers=None):
        r = self.s.request(self.b + path, method, json=body, raise_exc=False, headers=headers)
        if r.status_code >= 400 and r.status_code not in ok:
            raise SystemExit(f"{method} {self.b}{path}: {r.status_code} {r.text[:500]}")
        return r.json() if r.content and r.status_code < 400 else {}

    def ensure(self, path, one, many, body, match=("name",)):
        for x in self("GET", path)[many]:
            if all(x.get(k) == body[k] for k in match):
                return x
        return self("POST", path, {one: body})[one]


ks = Api(adm, f"http://{ip}:5000/v3")


def identity():
    dom = "default"
    role = {r["name"]: r["id"] for r in ks("GET", "/roles")["roles"]}
    if "service" not in role:
        role["service"] = ks.ensure("/roles", "role", "roles", {"name": "service"})["id"]

    def project(name):
        return ks.ensure("/projects", "project", "projects", {"name": name, "domain_id": dom})["id"]

    def user(name, proj, *roles):
        u = ks.ensure("/users", "user", "users", {"name": name, "domain_id": dom, "password": pw})["id"]
        for r in roles:
            ks("PUT", f"/projects/{proj}/users/{u}/roles/{role[r]}")

    svc = project("service")
    catalog = {
        "glance": ("image", f"http://{ip}:9292"),
        "placement": ("placement", f"http://{ip}:8778"),
        "nova": ("compute", f"http://{ip}:8774/v2.1"),
        "neutron": ("network", f"http://{ip}:9696"),
        "cinder": ("volumev3", f"http://{ip}:8776/v3/%(project_id)s"),
        "swift": ("object-store", f"http://{ip}:8080/v1/AUTH_%(project_id)s"),
    }
    for name, (typ, url) in catalog.items():
        if name not in services:
            continue
        user(name, svc, "admin", "service")
        s = ks.ensure("/services", "service", "services", {"name": name, "type": typ})["id"]
        for iface in ("public", "internal", "admin"):
            ks.ensure("/endpoints", "endpoint", "endpoints",
                      {"service_id": s, "interface": iface, "region_id": region, "url": url},
                      ("service_id", "interface"))
    # Trove: its user may do everything in the cloud, its API is on the host.
    user("trove", svc, "admin", "service")
    s = ks.ensure("/services", "service", "services", {"name": "trove", "type": "database"})["id"]
    for iface in ("public", "internal", "admin"):
        ks.ensure("/endpoints", "endpoint", "endpoints",
                  {"service_id": s, "interface": iface, "region_id": region,
                   "url": f"http://{os.environ['HOST_IP']}:8779/v1.0/%(project_id)s"},
                  ("service_id", "interface"))
    for name in ("demo", "alt"):                 # two ordinary tenants
        user(name, project(name), "member")


def poll(seconds, what, fn):
    end = time.time() + seconds
    while time.time() < end:
        if fn():
            return
        time.sleep(0.5)
    raise SystemExit(f"timed out: {what}")


def management(q, external):
    """Trove's management network: of the project service, with a way to the host."""
    me = login("trove", "service").get_project_id()
    net = q.ensure("/networks", "network", "networks", {"name": "trove-mgmt", "project_id": me})
    sub = q.ensure("/subnets", "subnet", "subnets", {
        "name": "trove-mgmt", "network_id": net["id"], "project_id": me, "ip_version": 4,
        "cidr": os.environ["MGMT_CIDR"]})
    # Agents find the message bus by this network, clients find them by their own.
    q("PUT", f"/subnets/{sub['id']}", {"subnet": {"host_routes": [
        {"destination": f"{ip}/32", "nexthop": sub["gateway_ip"]}]}})
    rt = q.ensure("/routers", "router", "routers", {
        "name": "trove-mgmt", "project_id": me, "external_gateway_info": {"network_id": external["id"]}})
    q("PUT", f"/routers/{rt['id']}/add_router_interface", {"subnet_id": sub["id"]}, ok=(400, 409))
    q.ensure("/security-groups", "security_group", "security_groups", {
        "name": "trove-mgmt", "project_id": me, "description": "nothing reaches an agent: it connects itself"})


def cloud():
    demo = login("demo", "demo")
    if "neutron" in services:
        q = Api(adm, f"http://{ip}:9696/v2.0")
        dq = Api(demo, f"http://{ip}:9696/v2.0")
        net = q.ensure("/networks", "network", "networks", {
            "name": "provider", "shared": True, "router:external": True,
            "provider:network_type": "flat", "provider:physical_network": "provider"})
        a, b = os.environ["EXT_POOL"].split(",")
        q.ensure("/subnets", "subnet", "subnets", {
            "name": "provider", "network_id": net["id"], "ip_version": 4, "cidr": os.environ["EXT_CIDR"],
            "gateway_ip": os.environ["EXT_GW"], "allocation_pools": [{"start": a, "end": b}], "enable_dhcp": True})
        me = demo.get_project_id()
        sg = dq.ensure(f"/security-groups?project_id={me}", "security_group", "security_groups",
                       {"name": "ssh", "description": "ping and ssh from anywhere"})
        have = {(r["protocol"], r["port_range_min"]) for r in sg["security_group_rules"] if r["direction"] == "ingress"}
        for proto, port in (("icmp", None), ("tcp", 22)):
            if (proto, port) not in have:
                dq("POST", "/security-group-rules", {"security_group_rule": {
                    "security_group_id": sg["id"], "direction": "ingress", "ethertype": "IPv4",
                    "protocol": proto, "port_range_min": port, "port_range_max": port}})
        if "l3" in services:
            pn = dq.ensure("/networks", "network", "networks", {"name": "private"})
            ps = dq.ensure("/subnets", "subnet", "subnets", {
                "name": "private", "network_id": pn["id"], "ip_version": 4, "cidr": "198.18.64.0/24"})
            rt = dq.ensure("/routers", "router", "routers",
                           {"name": "router", "external_gateway_info": {"network_id": net["id"]}})
            dq("PUT", f"/routers/{rt['id']}/add_router_interface", {"subnet_id": ps["id"]}, ok=(400, 409))
            management(q, net)
        want = {"Linux bridge agent", "DHCP agent", "Metadata agent"} | ({"L3 agent"} if "l3" in services else set())
        poll(90, "neutron agents", lambda: want <= {
            x["agent_type"] for x in q("GET", "/agents")["agents"] if x["alive"]})
    if "nova" in services:
        n = Api(adm, f"http://{ip}:8774/v2.1")
        dn = Api(demo, f"http://{ip}:8774/v2.1")
        for name, cpu, ram, disk in (("db.nano", 1, 384, 3), ("db.tiny", 1, 512, 4), ("db.small", 1, 1024, 8),
                                     ("db.medium", 2, 2048, 16), ("db.large", 2, 4096, 20)):
            n.ensure("/flavors", "flavor", "flavors", {"name": name, "vcpus": cpu, "ram": ram, "disk": disk})
        pub = os.path.join(os.environ["OSLAB_ETC"], "..", "id_demo.pub")
        names = [k["keypair"]["name"] for k in dn("GET", "/os-keypairs")["keypairs"]]
        if "demo" not in names:
            dn("POST", "/os-keypairs", {"keypair": {"name": "demo", "public_key": open(pub).read()}})
        poll(120, "nova-compute", lambda: any(
            x["binary"] == "nova-compute" and x["state"] == "up" for x in n("GET", "/os-services")["services"]))
        # A nova-compute that was killed after libvirtd has disabled its own host; the trait that
        # keeps the scheduler off it is cleared by disabling and enabling it through the API.
        mv = {"X-OpenStack-Nova-API-Version": "2.53"}
        for x in n("GET", "/os-services", headers=mv)["services"]:
            if x["binary"] == "nova-compute":
                for status in ("disabled", "enabled") if os.environ.get("OSLAB_REENABLE") or x["status"] != "enabled" else ():
                    n("PUT", f"/os-services/{x['id']}", {"status": status}, headers=mv)
        if not n("GET", "/os-hypervisors", ok=(404,)).get("hypervisors"):
            subprocess.run(["nova-manage", "--config-file", os.environ["OSLAB_ETC"] + "/nova/nova.conf",
                            "cell_v2", "discover_hosts"], check=True)
        poll(60, "hypervisor", lambda: n("GET", "/os-hypervisors").get("hypervisors"))
    if "cinder" in services:
        c = Api(adm, f"http://{ip}:8776/v3/{adm.get_project_id()}")
        poll(90, "cinder-volume", lambda: any(
            x["binary"] == "cinder-volume" and x["state"] == "up" for x in c("GET", "/os-services")["services"]))
        c.ensure("/types", "volume_type", "volume_types", {"name": "file", "extra_specs": {"volume_backend_name": "file"}})


identity() if phase == "identity" else cloud()
