"""Read a build's revision and address from the variables of a CI system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from privyseal.model import RequestContext

FIELD_CHARACTERS = 512
"""The most that a field of a request's context holds."""

Environment = Mapping[str, str]


@dataclass(frozen=True)
class _System:
    """A CI system: the variable that shows its presence, and how to read the revision and the build's address."""

    presence: str
    revision: Callable[[Environment], str]
    build_url: Callable[[Environment], str]


def _variable(*names: str) -> Callable[[Environment], str]:
    """The first of these variables that is set."""
    return lambda environ: next((environ[name] for name in names if environ.get(name)), "")


def _joined(template: str, *names: str) -> Callable[[Environment], str]:
    """The template filled with the variables, empty when one of them is not set."""

    def read(environ: Environment) -> str:
        values = {name: environ.get(name, "").rstrip("/") for name in names}
        return template.format_map(values) if all(values.values()) else ""

    return read


# Each from the system's own page of predefined variables.
_SYSTEMS = (
    _System(
        "GITHUB_ACTIONS",
        _variable("GITHUB_SHA"),
        _joined(
            "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
            "GITHUB_SERVER_URL",
            "GITHUB_REPOSITORY",
            "GITHUB_RUN_ID",
        ),
    ),
    _System("GITLAB_CI", _variable("CI_COMMIT_SHA"), _variable("CI_JOB_URL", "CI_PIPELINE_URL")),
    _System("CIRCLECI", _variable("CIRCLE_SHA1"), _variable("CIRCLE_BUILD_URL")),
    _System(
        "BITBUCKET_BUILD_NUMBER",
        _variable("BITBUCKET_COMMIT"),
        _joined(
            "https://bitbucket.org/{BITBUCKET_REPO_FULL_NAME}/pipelines/results/{BITBUCKET_BUILD_NUMBER}",
            "BITBUCKET_REPO_FULL_NAME",
            "BITBUCKET_BUILD_NUMBER",
        ),
    ),
    _System(
        "TF_BUILD",
        _variable("BUILD_SOURCEVERSION"),
        _joined(
            "{SYSTEM_COLLECTIONURI}/{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
            "SYSTEM_COLLECTIONURI",
            "SYSTEM_TEAMPROJECT",
            "BUILD_BUILDID",
        ),
    ),
    _System("BUILDKITE", _variable("BUILDKITE_COMMIT"), _variable("BUILDKITE_BUILD_URL")),
    _System("BITRISE_IO", _variable("BITRISE_GIT_COMMIT", "GIT_CLONE_COMMIT_HASH"), _variable("BITRISE_BUILD_URL")),
    _System(
        "CM_BUILD_ID",
        _variable("CM_COMMIT"),
        _joined("https://codemagic.io/app/{CM_PROJECT_ID}/build/{CM_BUILD_ID}", "CM_PROJECT_ID", "CM_BUILD_ID"),
    ),
    _System("CODEBUILD_BUILD_ID", _variable("CODEBUILD_RESOLVED_SOURCE_VERSION"), _variable("CODEBUILD_BUILD_URL")),
    _System("TRAVIS", _variable("TRAVIS_COMMIT"), _variable("TRAVIS_BUILD_WEB_URL")),
    _System("DRONE", _variable("DRONE_COMMIT_SHA"), _variable("DRONE_BUILD_LINK")),
    # Last, since its variables are the ones that other systems' plugins also set.
    _System("JENKINS_URL", _variable("GIT_COMMIT"), _variable("BUILD_URL")),
)


def context_from(environ: Environment) -> RequestContext:
    """The revision and the build's address as the CI system has them; empty outside of one.

    A value that no request may carry (over 512 characters, or with control characters) is left out: what a CI system
    sets by itself must not fail a build.
    """
    for system in _SYSTEMS:
        if environ.get(system.presence):
            return RequestContext(
                source_revision=_fit(system.revision(environ)), build_url=_fit(system.build_url(environ))
            )
    return RequestContext()


def _fit(value: str) -> str:
    return value if len(value) <= FIELD_CHARACTERS and value.isprintable() else ""


def with_flags(context: RequestContext, **flags: str | None) -> RequestContext:
    """The context; what the user gave takes precedence over the CI system's values."""
    return replace(context, **{name: value for name, value in flags.items() if value is not None})
