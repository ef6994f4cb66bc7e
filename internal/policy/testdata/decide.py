"""Answers policy questions with Debian's oslo.policy: a JSON line in, one out.

In:  {"file": text of a policy file, "defaults": {name: rule}, "default_rule": name,
      "questions": [{"rule": name, "creds": {...}, "target": {...}}]}
Out: {"raised": what reading the file raised or null, "complaints": how many rules
      it could not understand, "answers": [true, false or what was raised]}
"""
import json
import logging
import sys
import warnings

from oslo_config import cfg
from oslo_policy import policy

warnings.simplefilter("ignore")


class Complaints(logging.Handler):
    count = 0

    def emit(self, record):
        if record.levelno >= logging.ERROR:
            self.count += 1


complaints = Complaints()
logging.getLogger("oslo_policy").addHandler(complaints)
logging.getLogger("oslo_policy").propagate = False

conf = cfg.ConfigOpts()
conf([], default_config_files=[], default_config_dirs=[])

for line in sys.stdin:
    request = json.loads(line)
    complaints.count = 0
    out = {"raised": None, "answers": []}
    try:
        rules = policy.Rules.load(request["file"], request["default_rule"])
        for name, rule in request["defaults"].items():
            if name not in rules:
                rules[name] = policy.RuleDefault(name, rule).check
    except Exception as e:
        out["raised"] = repr(e)
        rules = None
    if rules is not None:
        enforcer = policy.Enforcer(conf, use_conf=False, default_rule=request["default_rule"])
        enforcer.set_rules(rules)
        for q in request["questions"]:
            try:
                out["answers"].append(bool(enforcer.enforce(q["rule"], q["target"], q["creds"])))
            except Exception as e:
                out["answers"].append(repr(e))
    out["complaints"] = complaints.count
    print(json.dumps(out), flush=True)
