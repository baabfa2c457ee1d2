"""The render step: it draws texts as labelled images, for a model to start from where labels are few."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

from components.commit import Commit
from components.rendering.collection import (
    MANIFEST_NAME,
    RenderedManifest,
    RenderingRequest,
    choose_faces,
    find_grounds,
    read_texts,
    render_collection,
)
from pipeline.engines.jobs import choose_processes
from pipeline.options import make_absolute
from pipeline.steps.estimate import estimate_time
from pipeline.steps.step import Context, Outcome, Plan, StepResult, get_now
from pipeline.workspace import Unfinished, make_id
from tfrecords import storage

log = logging.getLogger(__name__)

RENDERING_VERSION = 1
"""Goes into the IDs of rendered collections: raised when the same texts and fonts would give other images."""


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The collection to render.

    Attributes:
        request: what is to be drawn.
        rendered_id: digest of the texts, the names of the fonts and of the images for grounds, and the options.
        folder: of the committed collection.
        committed: whether it is there.
    """

    request: RenderingRequest
    rendered_id: str
    folder: str
    committed: bool

    @property
    def outcome(self) -> Outcome:
        """The outcome for the collection."""
        return Outcome.REUSED if self.committed else Outcome.MADE


class RenderStep:
    """Renders texts as a labelled collection, with a table of the labels."""

    name = "render"
    place = "images"

    def run(self, context: Context) -> StepResult:
        """Commits the collection, or finds it committed.

        Raises:
            DataError: if there are no texts, or no font that can draw one.
        """
        resolved = _resolve(context)
        request = resolved.request
        if not resolved.committed:
            storage.remove_folder(request.folder)
            log.info(f"rendering {request.count:,} images of {_describe(request)}")
            render_collection(request, choose_processes(context.options, request.count))
            manifest = RenderedManifest(
                rendered_id=resolved.rendered_id,
                images=request.count,
                texts=len(request.texts),
                faces=len(request.faces),
                grounds=len(request.grounds),
                created_at=get_now().isoformat(timespec="seconds"),
            )
            Commit(request.folder, resolved.folder, MANIFEST_NAME).finish(manifest)
        summary = f"{request.count:,} images of {_describe(request)}: train on them with --images={resolved.folder}"
        if resolved.committed:
            summary += "; they were there already"
        figures = {"rendered_id": resolved.rendered_id, "images": request.count}
        return StepResult(summary, resolved.folder, figures, resolved.outcome)

    def plan(self, context: Context) -> Plan:
        """Says how many images would be rendered."""
        resolved = _resolve(context)
        request = resolved.request
        lines = [f"render {request.count:,} images of {_describe(request)}"]
        if resolved.committed:
            return Plan(resolved.outcome, [*lines, f"nothing to render: {resolved.folder} is there already"])
        lines.append(f"write them to {resolved.folder}")
        lines.append(estimate_time(context.workspace, self.name, "images", request.count))
        return Plan(resolved.outcome, lines)

    def count_images(self, figures: Mapping[str, Any]) -> int:
        """Counts the rendered images."""
        return figures.get("images", 0)


def _resolve(context: Context) -> _Resolved:
    """Finds texts, fonts and grounds, and determines the collection that they make.

    Raises:
        DataError: if there are no texts, or no font that can draw one.
    """
    options, workspace = context.options, context.workspace
    texts = read_texts(options.texts)
    faces, texts = choose_faces(make_absolute(options.fonts), texts)
    grounds = find_grounds(make_absolute(options.backgrounds)) if options.backgrounds else []
    rendered_id = make_id(
        version=RENDERING_VERSION,
        texts=texts,
        faces=[(face.path, os.path.getsize(face.path)) for face in faces],
        grounds=grounds,
        count=options.render_count,
        seed=options.seed,
    )
    folder = storage.join(workspace.root, "rendered", rendered_id)
    request = RenderingRequest(
        folder=workspace.unfinished(Unfinished.RENDERED, rendered_id),
        texts=texts,
        faces=faces,
        grounds=[path for path, _, _ in grounds],
        count=options.render_count,
        seed=options.seed,
        limits=options.image_limits,
    )
    return _Resolved(request, rendered_id, folder, storage.exists(storage.join(folder, MANIFEST_NAME)))


def _describe(request: RenderingRequest) -> str:
    """Describes what images are made of."""
    described = f"{len(request.texts):,} texts in {len(request.faces):,} faces"
    return f"{described} on the grounds of {len(request.grounds):,} images" if request.grounds else described
