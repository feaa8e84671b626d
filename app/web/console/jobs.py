"""Jobs: queues, workers, and what they do; and what waits in the database, whether or not Redis answers."""

from uuid import UUID

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.config import VERSION
from app.jobs import board, orders
from app.models import Role
from app.protocol.errors import InvalidState, NotFound
from app.reports import jobs as reports
from app.reports.jobs import Call
from app.web.console import gate
from app.web.console.forms import confirm_form
from app.web.console.gate import admin_page
from app.web.console.view import confirm, redirect_done, redirect_refused, render

bp = Blueprint("jobs", __name__)

HOME = "/admin/jobs"

#: The furthest into a list of jobs that an address leads.
_MAX_SKIP = 1_000_000


@bp.get(HOME)
@admin_page(Role.VIEWER)
def index() -> ResponseReturnValue:
    """All of it on one page; `?state=` shows the jobs of one state."""
    given = request.args.get("state", "")
    state = board.read_state(given) if given else None
    skip = request.args.get("skip", 0, int)
    seen = board.look(state, min(max(skip, 0), _MAX_SKIP))
    mine = _my_workspaces()
    working = [worker.job for worker in seen.board.live if worker.job] if seen.board else []
    calls = {job.id: Call(job.name, job.ids) for job in (*seen.jobs, *working)}
    words = reports.in_words(mine, calls.values())
    return render(
        "console/jobs/index.html",
        title="Jobs",
        active="jobs",
        board=seen.board,
        away=seen.away,
        jobs=seen.jobs,
        has_more=seen.has_more,
        state=state,
        skip=skip,
        page_size=board.PAGE,
        words={job_id: words[call] for job_id, call in calls.items()},
        turns=[(reports.title_of(turn.name), turn.every_s) for turn in board.turns()],
        backlog=reports.backlog(mine),
        cap=reports.COUNT_CAP,
        this_version=VERSION,
    )


@bp.post(f"{HOME}/queues/<name>/pause")
@admin_page(Role.ADMIN)
def pause(name: str) -> ResponseReturnValue:
    """Let workers take no more jobs of a queue."""
    is_new = orders.pause(name)
    return redirect_done(HOME, f"{name} is paused." if is_new else f"{name} was paused already.")


@bp.post(f"{HOME}/queues/<name>/resume")
@admin_page(Role.ADMIN)
def resume(name: str) -> ResponseReturnValue:
    """Let workers go on with a queue."""
    was_paused = orders.resume(name)
    return redirect_done(HOME, f"{name} goes on." if was_paused else f"{name} was not paused.")


@bp.post(f"{HOME}/queues/<name>/run-failed")
@admin_page(Role.ADMIN)
def run_failed(name: str) -> ResponseReturnValue:
    """Run the failed jobs of a queue again."""
    number = orders.run_all_failed(name)
    said = f"{number} failed jobs of {name} run again." if number else f"No job of {name} is failed."
    return redirect_done(HOME, said)


@bp.post(f"{HOME}/<uuid:job_id>/run")
@admin_page(Role.ADMIN)
def run(job_id: UUID) -> ResponseReturnValue:
    """Run a failed job again, or a scheduled one now."""
    try:
        job = orders.run_now(str(job_id))
    except InvalidState as problem:
        return redirect_refused(HOME, problem)
    return redirect_done(HOME, f"“{reports.title_of(job.name)}” is on its queue again.")


@bp.get(f"{HOME}/<uuid:job_id>/remove")
@admin_page(Role.ADMIN)
def ask_remove(job_id: UUID) -> ResponseReturnValue:
    """Ask before a job is removed."""
    job = board.get_job(str(job_id))
    title = reports.title_of(job.name)
    return confirm(
        f"Remove the job “{title}”?",
        form=confirm_form(),
        button="Remove the job",
        keep="Keep it",
        back=HOME,
        crumbs=[("Jobs", HOME)],
        active="jobs",
        lead=f"It is {job.state.value} on the queue {job.queue}.",
        consequences=[
            (1, "job", "is forgotten, with its exception"),
            (0, "deliveries", "are touched: what is due is in the database, and the sweep finds it"),
        ],
    )


@bp.post(f"{HOME}/<uuid:job_id>/remove")
@admin_page(Role.ADMIN)
def remove(job_id: UUID) -> ResponseReturnValue:
    """Remove a job."""
    try:
        job = orders.remove(str(job_id))
    except (InvalidState, NotFound) as problem:
        return redirect_refused(HOME, problem)
    return redirect_done(HOME, f"The job “{reports.title_of(job.name)}” is removed.")


def _my_workspaces() -> list[int]:
    return [membership.workspace.id for membership in gate.memberships()]
