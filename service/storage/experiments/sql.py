"""Experiments in the database of the records."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import URL, case, func, select

from service.core.experiments.experiment import ENDED, Experiment, TrialCounts
from service.core.experiments.trial import Trial
from service.storage.database import INSERT, open_database, reading, writing
from service.storage.tables import experiment as experiments
from service.storage.tables import experiment_trial as trials


class SqlExperimentStore:
    """Experiments and their trials as documents; safe to use from several threads.

    Every method raises StoreUnavailable when the database cannot be used; nothing is written then.
    """

    def __init__(self, url: str | URL) -> None:
        """Open the database at an SQLAlchemy URL and migrate its schema."""
        self._engine = open_database(url)
        self._insert = INSERT[self._engine.dialect.name]

    def __repr__(self) -> str:
        return f"<SqlExperimentStore {self._engine.url.render_as_string(hide_password=True)}>"

    def put(self, experiment: Experiment) -> None:
        """Insert or replace an experiment."""
        new = self._insert(experiments).values(
            id=experiment.id, state=experiment.state, document=msgspec.to_builtins(experiment)
        )
        with writing(self._engine) as connection:
            connection.execute(
                new.on_conflict_do_update(
                    index_elements=[experiments.c.id],
                    set_={name: new.excluded[name] for name in ("state", "document")},
                )
            )

    def get(self, experiment_id: str) -> Experiment | None:
        """Read an experiment; None if there is none with this id."""
        query = select(experiments.c.document).where(experiments.c.id == experiment_id)
        with reading(self._engine) as connection:
            document = connection.execute(query).scalar_one_or_none()
        return None if document is None else msgspec.convert(document, Experiment)

    def page(self, *, limit: int, before: str | None = None) -> tuple[Experiment, ...]:
        """Read experiments, newest first, that are older than the one with the id *before*."""
        query = select(experiments.c.document).order_by(experiments.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(experiments.c.id < before)
        with reading(self._engine) as connection:
            return tuple(msgspec.convert(each, Experiment) for each in connection.scalars(query))

    def unfinished(self) -> tuple[Experiment, ...]:
        """Read the experiments that have not ended, oldest first."""
        query = (
            select(experiments.c.document)
            .where(experiments.c.state.not_in(sorted(ENDED)))
            .order_by(experiments.c.id)
        )
        with reading(self._engine) as connection:
            return tuple(msgspec.convert(each, Experiment) for each in connection.scalars(query))

    def write_trial(self, experiment_id: str, trial: Trial) -> None:
        """Insert or replace a trial, by its number."""
        new = self._insert(trials).values(
            experiment_id=experiment_id,
            number=trial.number,
            state=trial.state,
            document=msgspec.to_builtins(trial),
        )
        with writing(self._engine) as connection:
            connection.execute(
                new.on_conflict_do_update(
                    index_elements=[trials.c.experiment_id, trials.c.number],
                    set_={name: new.excluded[name] for name in ("state", "document")},
                )
            )

    def trials(self, experiment_id: str) -> tuple[Trial, ...]:
        """Read the trials that have ended, by number."""
        query = (
            select(trials.c.document)
            .where(trials.c.experiment_id == experiment_id)
            .order_by(trials.c.number)
        )
        with reading(self._engine) as connection:
            return tuple(msgspec.convert(each, Trial) for each in connection.scalars(query))

    def counts(self, experiment_ids: Sequence[str]) -> dict[str, TrialCounts]:
        """Count ended trials of each experiment."""
        query = (
            select(
                trials.c.experiment_id,
                func.count().label("ended"),
                func.sum(case((trials.c.state == "failed", 1), else_=0)).label("failed"),
            )
            .where(trials.c.experiment_id.in_(experiment_ids))
            .group_by(trials.c.experiment_id)
        )
        with reading(self._engine) as connection:
            found = {
                row.experiment_id: TrialCounts(ended=row.ended, failed=row.failed)
                for row in connection.execute(query)
            }
        return {each: found.get(each, TrialCounts()) for each in experiment_ids}

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
