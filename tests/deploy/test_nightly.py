"""The schedules of the nightly run: their flags, their time, and what they make of each exit status."""

import ast
import base64
import configparser
import http.server
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud.dataflow_v1beta3 import FlexTemplatesServiceClient
from google.cloud.dataflow_v1beta3.types import LaunchFlexTemplateRequest
from google.protobuf import json_format

import pipeline.exits
from pipeline.command_line import parse_options
from tests.engines.services import Answering, serving

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMMAND = ["run_pipeline.py", "--config=nightly.yaml"]
PROJECT = "/srv/line-reader"
DONE, ALARM = pipeline.exits.EXIT_DONE, pipeline.exits.EXIT_ALARM
AGAIN = {pipeline.exits.EXIT_HELD, pipeline.exits.EXIT_AGAIN, pipeline.exits.EXIT_INTERRUPTED, pipeline.exits.EXIT_LOST}
FINAL = {pipeline.exits.EXIT_REFUSED, pipeline.exits.EXIT_USAGE}

EXECUTE_READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
dag = bag.dags["nightly"]
read, alarm = dag.get_task("read"), dag.get_task("alarm")
ends = {}
for status in map(int, sys.argv[3:]):
    open(sys.argv[2], "w").write(f"exit {status}" if status >= 0 else f"kill {status} $$")
    try:
        ends[status] = read.execute({})
        alarm.python_callable(ends[status])
    except Exception as error:
        ends[status] = [ends.get(status), type(error).__name__]
print(json.dumps({
    "runs": dag.max_active_runs, "catchup": dag.catchup, "schedule": dag.timetable.expression,
    "zone": str(dag.timetable.timezone), "retries": [read.retries, alarm.retries],
    "before alarm": sorted(alarm.upstream_task_ids), "ends": ends,
}), file=sys.stderr)
"""


def settings() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "nightly.yaml").read_text())


def crontab() -> tuple[dict[str, str], list[str], str]:
    """The variables of the crontab, and the fields and the command of its one line, as cron reads them."""
    lines = (DEPLOY / "nightly.cron").read_text().splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Z_]+=\S+", line) for line in lines[:-1])
    *fields, command = lines[-1].split(None, 5)
    assert not re.search(r"(?<!\\)%", command), "cron ends the command there"
    return dict(line.split("=", 1) for line in lines[:-1]), fields, command.replace("\\%", "%")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


def hook() -> str:
    """The unit that the documentation shows for whoever is told of a failure."""
    (block,) = re.findall(r"```ini\n(.+?)```", (ROOT / "docs" / "nightly.md").read_text(), re.DOTALL)
    return block


def dag_constants() -> dict[str, Any]:
    """What the DAG's file fixes by its names, read without Airflow."""
    found: dict[str, Any] = {}
    for node in ast.parse((DEPLOY / "airflow_nightly.py").read_text()).body:
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            names = [name.id for name in ast.walk(target) if isinstance(name, ast.Name)]
            value = ast.literal_eval(node.value)
            found.update(zip(names, value if len(names) > 1 else [value], strict=True))
    return found


def launch() -> dict[str, Any]:
    """The request that Cloud Scheduler sends."""
    target = json.loads((DEPLOY / "cloud-scheduler.json").read_text())["httpTarget"]
    return json.loads(base64.b64decode(target["body"], validate=True))


def project_that_ends(folder: Path, script: str) -> Path:
    """A project whose Python says how it was called, and then does what a shell script says."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$PWD $@"\n{script}\n')
    python.chmod(0o755)
    return folder


def test_every_exit_status_is_repeated_or_final():
    statuses = {value for name, value in vars(pipeline.exits).items() if name.startswith("EXIT_")}
    assert statuses | {ALARM} == {DONE, ALARM} | AGAIN | FINAL
    table = re.findall(r"^\| (\d+) \|[^|]+\| ([^|]+) \|", (ROOT / "docs" / "nightly.md").read_text(), re.MULTILINE)
    repeated = {int(status): not re.match("no|never", repeat) for status, repeat in table}
    assert repeated == {status: status in AGAIN for status in {DONE, ALARM} | AGAIN | FINAL}


def test_the_nightly_flags_are_flags():
    options = parse_options([f"--config={DEPLOY / 'nightly.yaml'}"])
    assert options.step_names == ("infer",)
    assert {name: getattr(options, name) for name in settings()} == settings()


def test_the_flag_that_is_commented_out_is_one(tmp_path):
    config = tmp_path / "nightly.yaml"
    text, count = re.subn("^# (?=notify_url: )", "", (DEPLOY / "nightly.yaml").read_text(), flags=re.MULTILINE)
    assert count == 1
    config.write_text(text)
    assert parse_options([f"--config={config}"]).notify_url == "https://HOST/PATH"


def test_all_schedules_start_at_the_same_time_in_utc():
    variables, fields, _ = crontab()
    assert [int(field) for field in fields[:2]] == [30, 1]
    assert fields[2:] == ["*"] * 3
    assert variables["CRON_TZ"] == "UTC"
    assert unit("nightly.timer")["Timer"]["OnCalendar"] == "*-*-* 01:30:00 UTC"
    job = json.loads((DEPLOY / "cloud-scheduler.json").read_text())
    assert (job["schedule"].split(), job["timeZone"]) == (fields, "Etc/UTC")
    assert f'schedule="{job["schedule"]}",  # UTC' in (DEPLOY / "airflow_nightly.py").read_text()


@pytest.mark.parametrize("status", sorted({DONE, ALARM} | AGAIN | FINAL))
def test_cron_mails_one_sentence_of_any_night_but_a_good_one(tmp_path, status):
    variables, _, command = crontab()
    assert variables["PROJECT"] == PROJECT
    project, logs = project_that_ends(tmp_path / "a project", f"exit {status}"), tmp_path / "logs"
    logs.mkdir()
    environment = {**variables, "PROJECT": str(project), "LOGS": str(logs)}
    run = subprocess.run(
        [variables["SHELL"], "-c", command], env=environment, capture_output=True, text=True, timeout=60
    )
    sentence = f"the nightly run ended with status {status}: see {logs}\n"
    assert run.stdout + run.stderr == ("" if status == DONE else sentence)
    (log,) = logs.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.log", log.name)
    assert log.read_text().split() == [*str(project).split(), *COMMAND]


def test_cron_mails_when_the_project_is_gone(tmp_path):
    variables, _, command = crontab()
    environment = {**variables, "PROJECT": str(tmp_path / "gone"), "LOGS": str(tmp_path)}
    run = subprocess.run(
        [variables["SHELL"], "-c", command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "gone" in run.stderr


def test_the_service_repeats_what_a_repeat_can_help():
    service = unit("nightly.service")["Service"]
    again = set(service["RestartForceExitStatus"].split())
    assert again == {str(status) for status in AGAIN} | {"SIGTERM"}
    # Signals and time limits beside them, and no exit status.
    assert service["Restart"] == "on-abnormal"
    assert service["SuccessExitStatus"] == str(pipeline.exits.EXIT_INTERRUPTED), "what `systemctl stop` ends with"


def test_the_service_runs_the_command_and_may_write_its_workspace():
    service = unit("nightly.service")["Service"]
    assert shlex.split(service["ExecStart"]) == [f"{PROJECT}/.venv/bin/python", *COMMAND]
    assert service["WorkingDirectory"] == PROJECT
    assert settings()["workspace"].startswith(f"/var/lib/{service['StateDirectory']}/")


def verify_units(folder: Path, **changed: str) -> str:
    """What systemd has to say of the units, with a Python that is there."""
    folder.mkdir()
    for name in ("nightly.service", "nightly.timer"):
        text = changed.get(name.replace(".", "_"), (DEPLOY / name).read_text())
        (folder / name).write_text(text.replace(f"{PROJECT}/.venv/bin/python", sys.executable))
    (folder / unit("nightly.service")["Unit"]["OnFailure"]).write_text(hook())
    run = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(folder.iterdir()))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run.stdout + run.stderr


@pytest.mark.tool("systemd-analyze")
def test_systemd_takes_the_units_and_knows_every_key(tmp_path):
    assert verify_units(tmp_path / "units") == ""
    misspelt = {
        name: re.sub("^([A-Za-z]+)=", r"\1x=", (DEPLOY / name).read_text(), flags=re.MULTILINE)
        for name in ("nightly.service", "nightly.timer")
    }
    told = verify_units(tmp_path / "misspelt", **{name.replace(".", "_"): text for name, text in misspelt.items()})
    for name in misspelt:
        for section in unit(name).values():
            for key in section:
                assert re.search(f"{name}.*Unknown key( name)? '{key}x'", told), f"{key} may be anything"


def test_airflow_has_a_word_for_each_status_that_it_repeats():
    constants = dag_constants()
    assert (constants["DONE"], constants["ALARM"]) == (DONE, ALARM)
    assert set(constants["AGAIN"]) == AGAIN
    assert constants["PROJECT"] == PROJECT


def test_airflow_repeats_fails_or_raises_the_alarm(tmp_path, pytestconfig):
    """Airflow's requirements contradict the project's: it has an environment of its own, given by its Python."""
    airflow_python = pytestconfig.getoption("--airflow-python")
    if airflow_python is None:
        pytest.skip("Airflow needs an environment of its own: run with --airflow-python=PATH")
    dag, script = tmp_path / "airflow_nightly.py", tmp_path / "script"
    project = project_that_ends(tmp_path / "project", f". {script}")
    dag.write_text((DEPLOY / "airflow_nightly.py").read_text().replace(PROJECT, str(project)))
    killed = -9
    run = subprocess.run(
        [airflow_python, "-c", EXECUTE_READ, str(dag), str(script)]
        + [str(status) for status in [DONE, ALARM, killed, *AGAIN, *FINAL]],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stderr.splitlines()[-1])
    assert said.pop("ends") == {
        str(DONE): DONE,
        str(ALARM): [ALARM, "AirflowFailException"],
        **{str(status): [None, "AirflowException"] for status in (killed, *AGAIN)},
        **{str(status): [None, "AirflowFailException"] for status in FINAL},
    }
    assert said == {
        "runs": 1,
        "catchup": False,
        "schedule": "30 1 * * *",
        "zone": "UTC",
        "retries": [5, 0],
        "before alarm": ["read"],
    }
    assert f"{project} {' '.join(COMMAND)}" in run.stdout


def test_cloud_scheduler_sends_what_googles_own_client_would():
    target = json.loads((DEPLOY / "cloud-scheduler.json").read_text())["httpTarget"]
    received = []

    class Handler(Answering, http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path.partition("?")[0], self.headers["Content-Type"], json.loads(content)))
            self.answer(b"{}")

    request = LaunchFlexTemplateRequest(project_id="PROJECT", location="REGION")
    json_format.ParseDict(launch(), LaunchFlexTemplateRequest.pb(request), ignore_unknown_fields=False)
    with serving(Handler) as endpoint:
        FlexTemplatesServiceClient(
            credentials=AnonymousCredentials(), transport="rest", client_options={"api_endpoint": endpoint}
        ).launch_flex_template(request)
    address = target["uri"].removeprefix(f"https://{FlexTemplatesServiceClient.DEFAULT_ENDPOINT}")
    assert received == [(address, target["headers"]["Content-Type"], launch())]
    assert target["httpMethod"] == "POST"


def test_cloud_scheduler_launches_the_template_with_its_flags():
    parameters = launch()["launchParameter"]["parameters"]
    template = json.loads((DEPLOY / "flex-template.json").read_text())["parameters"]
    known = {parameter["name"]: parameter for parameter in template}
    assert {name for name in known if not known[name].get("isOptional")} <= parameters.keys() <= known.keys()
    for name, value in parameters.items():
        assert all(re.search(pattern, value) for pattern in known[name].get("regexes", ()))
    options = parse_options([f"--{name}={value}" for name, value in parameters.items()])
    assert options.step_names == ("infer",)
    assert options.min_confidence == settings()["min_confidence"]


@pytest.mark.tool("jq")
def test_the_documented_command_puts_words_into_the_launch_request():
    text = (ROOT / "docs" / "nightly.md").read_text()
    (command,) = re.findall(r"^(jq .+?) > job\.json$", text, re.DOTALL | re.MULTILINE)
    job = json.loads(
        subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    )
    body = base64.b64decode(job["httpTarget"].pop("body")).decode()
    assert not re.search("[A-Z]{5,}", body + json.dumps(job)), "a word is left to be replaced"
    assert json.loads(body)["launchParameter"]["parameters"]["workspace"] == "gs://my-bucket/work"
