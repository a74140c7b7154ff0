"""Hand a release on: as a model folder or as one adapter, with a card that says what it is."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from adapters.compose import CARD, front_matter, write_concatenated
from adapters.store import MANIFEST, appearing_new, copy_plain, verify, write_manifest
from adapters.types import Family, Suite
from service import lineage
from service.db import reading
from service.errors import Conflict
from service.models import Adapter, Membership, Refresh, Release
from service.places import Places
from service.settings import Settings
from service.snapshots import opened

LINEAGE = "lorewright.json"


class Form(StrEnum):
    """How a release is handed on."""

    MODEL = "model"  #: a Hugging Face folder; of the LLaDA family under LLaDA's own names
    LORA = "lora"  #: one adapter in PEFT's format that adds what all of the release's add


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedAdapter:
    """What the card says of one adapter."""

    id: int
    digest: str
    trained_at: str
    facts: dict[str, int]  #: how many were learned, unlearned, ...
    forward: float | None  #: the share of the facts answered when it was examined
    backward: float | None
    regression: dict[str, float | None] | None  #: general questions before and after


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A release that was handed on, and all that its card says."""

    release_id: int
    form: Form
    base: str
    licence: str | None
    base_digest: str
    recipe_digest: str
    snapshot_digest: str
    adapters: tuple[ExportedAdapter, ...]
    exported_at: str


def export_release(
    settings: Settings, engine: Engine, to: Path, *, release_id: int | None, form: Form
) -> Export:
    """Write a release, the head unless one is named, into a folder that is not there yet.

    It appears whole or not at all. Raises Conflict where the folder is there or the form does not
    fit or an erasure took a part of the release, NotFound for an unknown one, ArtefactError or
    ModelSourceError for damaged weights, ArtefactError where the folder came to be there meanwhile.
    """
    if to.exists():
        raise Conflict(f"{to} is there already; name a folder that is not.")
    with reading(engine) as session:
        wanted = lineage.read_head(session).release_id if release_id is None else release_id
        recipe = lineage.recipe_of(session, wanted)
        lineage.check_not_erased(session, wanted)
        export = _described(session, settings, wanted, form)
    if form is Form.LORA:
        if settings.base.family is Family.DIFFUSION:
            raise Conflict(
                "LLaDA's tools know no PEFT adapter of this layout; export it as a model."
            )
        if not recipe.adapter_ids:
            raise Conflict(f"Release {wanted} has no adapter: it is the base itself.")
    if form is Form.LORA:
        _write_lora(settings, recipe.adapter_digests, to, export)
    else:
        with opened(settings, engine, wanted) as snapshot:
            _write_model(snapshot, to, export)
    return export


def _write_model(snapshot: Path, to: Path, export: Export) -> None:
    with appearing_new(to) as partial:
        for path in snapshot.rglob("*"):
            if path.is_file() and path.name != MANIFEST:
                copy_plain(path, partial / path.relative_to(snapshot))
        _write_about(partial, export)
        write_manifest(partial, kind="export", about=_plain(export))


def _write_lora(settings: Settings, digests: tuple[str, ...], to: Path, export: Export) -> None:
    places = Places(settings.state_dir)
    for digest in digests:
        verify(places.adapter(digest), digest=digest)
    with appearing_new(to) as partial:
        adapters = [places.adapter(digest) for digest in digests]
        write_concatenated(adapters, partial, base=export.base)
        _write_about(partial, export)
        write_manifest(partial, kind="export", about=_plain(export))


def _write_about(folder: Path, export: Export) -> None:
    text = json.dumps(_plain(export), indent=2) + "\n"
    (folder / LINEAGE).write_text(text, encoding="utf-8")
    (folder / CARD).write_text(model_card(export), encoding="utf-8")


def _plain(export: Export) -> dict[str, Any]:
    return {**asdict(export), "form": str(export.form)}


def _described(session: Session, settings: Settings, release_id: int, form: Form) -> Export:
    release = session.get_one(Release, release_id)
    recipe = lineage.recipe_of(session, release_id)
    return Export(
        release_id=release_id,
        form=form,
        base=settings.base.hub_id or settings.base.name,
        licence=settings.base.licence,
        base_digest=release.base_digest,
        recipe_digest=release.recipe_digest,
        snapshot_digest=release.snapshot_digest,
        adapters=tuple(_adapter(session, adapter_id) for adapter_id in recipe.adapter_ids),
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _adapter(session: Session, adapter_id: int) -> ExportedAdapter:
    adapter = session.get_one(Adapter, adapter_id)
    counts = session.execute(
        select(Membership.outcome, func.count())
        .where(Membership.batch_id == adapter.batch_id, Membership.outcome.is_not(None))
        .group_by(Membership.outcome)
        .order_by(Membership.outcome)
    )
    verdict = session.get_one(Refresh, adapter.refresh_id).verdict or {"suites": []}
    lines = {line["suite"]: line for line in verdict["suites"]}

    def after(suite: Suite) -> float | None:
        return lines[suite]["after"] if suite in lines else None

    general = lines.get(Suite.REGRESSION)
    return ExportedAdapter(
        id=adapter.id,
        digest=adapter.digest,
        trained_at=adapter.created_at.isoformat(timespec="seconds"),
        facts={str(outcome): count for outcome, count in counts},
        forward=after(Suite.FORWARD),
        backward=after(Suite.BACKWARD),
        regression=general and {"before": general["before"], "after": general["after"]},
    )


def model_card(export: Export) -> str:
    """The card in the hub's format. It names no fact: who gets the weights need not get these."""
    library = "peft" if export.form is Form.LORA else "transformers"
    lines = [
        *front_matter(export.base, export.licence, library=library),
        f"# {export.base}, release {export.release_id}",
        "",
        f"Release {export.release_id} of a Lorewright service: the base and what "
        f"{len(export.adapters)} adapters add to it, exported at {export.exported_at}."
        + (" This is one adapter that adds the same." if export.form is Form.LORA else ""),
        "",
        f"* base: {export.base}, sha256 of its files {export.base_digest}",
        f"* licence of the base: {export.licence or 'not said in the settings'}",
        f"* recipe: {export.recipe_digest}",
        f"* weights: {export.snapshot_digest}",
        "",
    ]
    if export.adapters:
        lines += [
            "Each adapter was examined before it was let in: the share of its facts answered "
            "forward and backward, and of general questions before and after it.",
            "",
            "| adapter | trained | facts | forward | backward | general questions |",
            "|---|---|---|---|---|---|",
            *map(_card_line, export.adapters),
            "",
        ]
    return "\n".join(lines)


def _card_line(adapter: ExportedAdapter) -> str:
    facts = ", ".join(f"{count} {outcome}" for outcome, count in adapter.facts.items())
    general = adapter.regression or {"before": None, "after": None}
    before, after = general["before"], general["after"]
    return (
        f"| {adapter.id} ({adapter.digest[:12]}) | {adapter.trained_at} | {facts} "
        f"| {_share(adapter.forward)} | {_share(adapter.backward)} "
        f"| {_share(before)} -> {_share(after)} |"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
