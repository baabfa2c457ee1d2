"""The deployment files say what the services' own published models allow, and nothing else."""

import copy
import fnmatch
import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubeflow.training.models
import kubernetes.client.models
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from google.cloud.aiplatform_v1.types import CustomJobSpec
from google.cloud.dataflow_v1beta3.types import TemplateMetadata
from google.cloud.scheduler_v1.types import Job
from google.protobuf import json_format

from pipeline.command_line import parse_options
from pipeline.exits import EXIT_DONE, EXIT_LOST, EXIT_REFUSED, EXIT_USAGE
from pipeline.options import LinePipelineOptions, UsageError

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKER_INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}
EXITS = {EXIT_LOST: True, EXIT_REFUSED: False, EXIT_USAGE: False, EXIT_DONE: False}
SCALARS = {"str": str, "int": int, "bool": bool, "float": float}


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def kubernetes_object(kind: str, value: Any, path: str = "") -> Any:
    """The model object of a manifest, every key and type below it checked.

    The clients' own deserialiser skips the keys that it does not know.

    Args:
        kind: as the models name their types: `V1Pod`, `list[V1Container]`, `dict(str, str)`, `int`.
        value: a part of the manifest.
        path: where that part is, for the error.

    Raises:
        ValueError: for an unknown key, another type, or a missing required field.
    """
    if kind in SCALARS:
        if type(value) is not SCALARS[kind]:
            raise ValueError(f"{path} is {value!r}, not {kind}")
        return value
    if kind == "object":
        return value
    if nested := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            raise ValueError(f"{path} is {value!r}, not a list")
        return [kubernetes_object(nested[1], item, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {value!r}, not a mapping")
    if nested := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {key: kubernetes_object(nested[1], item, f"{path}.{key}") for key, item in value.items()}
    models = kubeflow.training.models if kind.startswith("Kubeflow") else kubernetes.client.models
    model = getattr(models, kind)
    attributes = {key: name for name, key in model.attribute_map.items()}
    if unknown := value.keys() - attributes.keys():
        raise ValueError(f"{path} has no {sorted(unknown)}")
    return model(
        **{
            attributes[key]: kubernetes_object(model.openapi_types[attributes[key]], item, f"{path}.{key}")
            for key, item in value.items()
        }
    )


def tf_job(manifest: Any) -> Any:
    return kubernetes_object("KubeflowOrgV1TFJob", manifest, "TFJob")


def claim(manifest: Any) -> Any:
    return kubernetes_object("V1PersistentVolumeClaim", manifest, "PersistentVolumeClaim")


def custom_job(spec: Any) -> Any:
    return CustomJobSpec(json_format.ParseDict(spec, CustomJobSpec.pb(CustomJobSpec()), ignore_unknown_fields=False))


def scheduler_job(job: Any) -> Any:
    return Job(json_format.ParseDict(job, Job.pb(Job()), ignore_unknown_fields=False))


CHECKS = {
    "cloud-scheduler.json": scheduler_job,
    "kubernetes-train.yaml": tf_job,
    "kubernetes-workspace.yaml": claim,
    "vertex-train.yaml": custom_job,
}


def keys(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to every key of a document whose name a model fixes."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from keys(item, (*path, index))
    elif isinstance(node, dict):
        for key, item in node.items():
            if not path or path[-1] not in ("annotations", "headers", "requests", "limits", "tfReplicaSpecs"):
                yield (*path, key)
            yield from keys(item, (*path, key))


def misspelt(document: Any, path: tuple[str | int, ...]) -> Any:
    """A copy of a document with one more letter in one key."""
    document = copy.deepcopy(document)
    node = document
    for step in path[:-1]:
        node = node[step]
    node[f"{path[-1]}x"] = node.pop(path[-1])
    return document


def dockerfile(folder: Path = DEPLOY) -> list[tuple[str, str]]:
    """The instructions and their values."""
    steps = DockerfileParser(str(folder)).structure
    return [(step["instruction"], step["value"]) for step in steps if step["instruction"] != "COMMENT"]


def worker() -> Any:
    """The pod that the TFJob makes of every worker."""
    return tf_job(load("kubernetes-train.yaml")).spec.tf_replica_specs["Worker"].template.spec


def cluster_options(arguments: list[str]) -> LinePipelineOptions:
    options = parse_options(arguments)
    assert options.step_names == ("train",)
    assert options.train_workers == 1, "the workers are other machines, not local processes"
    return options


@pytest.mark.parametrize("name", CHECKS)
def test_a_spec_fits_the_published_model(name):
    CHECKS[name](load(name))


@pytest.mark.parametrize("name", CHECKS)
def test_every_key_is_refused_when_misspelt(name):
    document = load(name)
    paths = list(keys(document))
    assert paths
    for path in paths:
        with pytest.raises((ValueError, json_format.ParseError), match=f"{path[-1]}x"):
            CHECKS[name](misspelt(document, path))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("kubernetes-train.yaml", "activeDeadlineSeconds: 604800", "activeDeadlineSeconds: week"),
        ("kubernetes-train.yaml", 'nvidia.com/gpu: "1"', "nvidia.com/gpu: [1]"),
        ("kubernetes-train.yaml", "- name: tensorflow", "- tty: true"),
        ("vertex-train.yaml", "NVIDIA_L4", "NVIDIA_L5"),
        ("vertex-train.yaml", "86400s", "a day"),
        ("cloud-scheduler.json", "POST", "PUSH"),
        ("cloud-scheduler.json", "180s", "3 minutes"),
    ],
)
def test_a_wrong_value_is_refused(name, old, new):
    text = (DEPLOY / name).read_text()
    assert text.count(old) == 1
    with pytest.raises((ValueError, json_format.ParseError)):
        CHECKS[name](yaml.safe_load(text.replace(old, new)))


def test_the_tf_job_is_one_that_the_operator_runs():
    job = tf_job(load("kubernetes-train.yaml"))
    assert (job.api_version, job.kind) == ("kubeflow.org/v1", "TFJob")
    assert list(job.spec.tf_replica_specs) == ["Worker"], "without a Chief, worker 0 is the chief"
    workers = job.spec.tf_replica_specs["Worker"]
    assert workers.replicas >= 2, "the operator sets TF_CONFIG from two workers on"
    # Under ExitCode, the operator starts again what ends with a status from 128 on, and nothing else.
    assert workers.restart_policy == "ExitCode"
    assert all((status >= 128) == again for status, again in EXITS.items())
    assert job.spec.run_policy.active_deadline_seconds >= 24 * 3600
    assert job.spec.run_policy.clean_pod_policy in ("All", "Running", "None")
    assert [container.name for container in worker().containers] == ["tensorflow"]


def test_the_tf_job_trains_in_the_shared_workspace():
    (container,) = worker().containers
    workspace = cluster_options(container.args).workspace
    mounts = {mount.mount_path: mount.name for mount in container.volume_mounts}
    volumes = {volume.name: volume for volume in worker().volumes}
    assert sorted(mounts.values()) == sorted(volumes)
    shared = claim(load("kubernetes-workspace.yaml"))
    assert volumes[mounts[workspace]].persistent_volume_claim.claim_name == shared.metadata.name
    assert shared.spec.access_modes == ["ReadWriteMany"]
    assert volumes[mounts["/dev/shm"]].empty_dir.medium == "Memory"


def test_the_custom_job_has_one_chief_and_starts_all_again_with_any_worker():
    job = custom_job(load("vertex-train.yaml"))
    chief, workers = job.worker_pool_specs
    assert (chief.replica_count, workers.replica_count >= 1) == (1, True)
    assert job.scheduling.restart_job_on_worker_restart
    assert not job.scheduling.disable_retries, "it would override the restart"
    assert chief.container_spec == workers.container_spec
    assert cluster_options(list(chief.container_spec.args)).workspace == "gs://BUCKET/work"


@pytest.mark.parametrize("name", ["kubernetes-train.yaml", "vertex-train.yaml"])
def test_a_misspelt_flag_is_refused(name):
    flags = set(re.findall(r"- (--\w+)=", (DEPLOY / name).read_text()))
    assert flags == {"--steps", "--workspace"}
    for flag in flags:
        with pytest.raises(UsageError, match=f"{flag}x"):
            parse_options([f"{flag}x=train"])


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, by its name, its FROM first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, value in dockerfile():
        if instruction == "FROM":
            base, _, name = value.split()
            found[name] = [("FROM", base)]
        elif found:
            list(found.values())[-1].append((instruction, value))
    return found


def values_of(stage: str, name: str) -> list[str]:
    return [value for instruction, value in stages()[stage] if instruction == name]


def test_the_image_holds_the_project_and_runs_its_command_as_the_specs_user():
    assert {instruction for instruction, _ in dockerfile()} <= DOCKER_INSTRUCTIONS
    assert list(stages())[-1] == "command", "what is built without --target"
    assert values_of("command", "FROM") == ["project"]
    (base,), (user,) = values_of("project", "FROM"), values_of("command", "USER")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert int(user) == worker().security_context.run_as_user == worker().security_context.fs_group
    (entry_point,) = values_of("command", "ENTRYPOINT")
    (command,) = json.loads(entry_point)
    assert f'"{command} = pipeline.start:command"' in (ROOT / "setup.py").read_text()


def test_the_workers_image_starts_beams_workers_of_the_version_that_is_installed():
    assert values_of("worker", "FROM") == ["project"]
    (beam,) = values_of("beam", "FROM")
    assert beam == f"apache/beam_python3.11_sdk:{importlib.metadata.version('apache-beam')}"
    assert re.match(r"python:3\.11\.", values_of("project", "FROM")[0]), "the workers' Python is that of the image"
    assert values_of("worker", "COPY") == ["--from=beam /opt/apache/beam /opt/apache/beam"]
    assert values_of("worker", "ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert values_of("launcher", "FROM") == ["worker"]
    (variable,) = values_of("launcher", "ENV")
    name, _, path = variable.partition("=")
    assert name == "FLEX_TEMPLATE_PYTHON_PY_FILE"
    assert f"run_pipeline.py {path}" in values_of("launcher", "COPY")


def test_the_template_describes_flags_that_there_are():
    template = load("flex-template.json")
    TemplateMetadata(json_format.ParseDict(template, TemplateMetadata.pb(TemplateMetadata())))
    with pytest.raises(json_format.ParseError, match="helptext"):
        json_format.ParseDict({"parameters": [{"helptext": ""}]}, TemplateMetadata.pb(TemplateMetadata()))
    values = {
        "steps": "infer",
        "workspace": "gs://BUCKET/work",
        "infer_images": "gs://BUCKET/night.csv",
        "sdk_container_image": "IMAGE",
        "path_column": "scan",
        "decoder": "lexicon",
        "lexicon": "gs://BUCKET/words.txt",
        "min_confidence": "0.8",
        "engine": "onnx",
        "dataflow_service_options": "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    }
    assert [parameter["name"] for parameter in template["parameters"]] == list(values)
    for parameter in template["parameters"]:
        assert all(re.search(pattern, values[parameter["name"]]) for pattern in parameter.get("regexes", ()))
    needed = [parameter["name"] for parameter in template["parameters"] if not parameter.get("isOptional")]
    for names in (values, needed):
        options = parse_options([f"--{name}={values[name]}" for name in names])
        assert options.step_names == ("infer",)


def test_the_image_is_built_from_files_that_are_there_and_sent():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copies = [value for step, value in dockerfile() if step == "COPY" and not value.startswith("--from=")]
    copied = {source for value in copies for source in value.split()[:-1]}
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    # every package that setup.py installs, and nothing of the tests
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"}
    assert packages <= copied
    assert any(fnmatch.fnmatch("components/__pycache__", line) for line in lines if not line.startswith("!"))


def test_a_misspelt_instruction_is_refused(tmp_path):
    (tmp_path / "Dockerfile").write_text((DEPLOY / "Dockerfile").read_text().replace("WORKDIR /src", "WORKDIRR /src"))
    assert {instruction for instruction, _ in dockerfile(tmp_path)} - DOCKER_INSTRUCTIONS == {"WORKDIRR"}
