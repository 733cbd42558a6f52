"""What CI systems say of a build."""

from __future__ import annotations

import pytest

from privyseal.ci import context_from, with_flags
from privyseal.model import RequestContext

SHA = "c0ffee" * 6 + "c0ff"

BUILDS = {
    "github": (
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_SHA": SHA,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "team/app",
            "GITHUB_RUN_ID": "42",
        },
        "https://github.example/team/app/actions/runs/42",
    ),
    "gitlab": (
        {"GITLAB_CI": "true", "CI_COMMIT_SHA": SHA, "CI_JOB_URL": "https://gitlab.example/j/1", "CI_PIPELINE_URL": "p"},
        "https://gitlab.example/j/1",
    ),
    "jenkins": ({"JENKINS_URL": "j", "GIT_COMMIT": SHA, "BUILD_URL": "https://j.example/1/"}, "https://j.example/1/"),
    "circleci": (
        {"CIRCLECI": "true", "CIRCLE_SHA1": SHA, "CIRCLE_BUILD_URL": "https://c.example/1"},
        "https://c.example/1",
    ),
    "bitbucket": (
        {"BITBUCKET_BUILD_NUMBER": "7", "BITBUCKET_COMMIT": SHA, "BITBUCKET_REPO_FULL_NAME": "team/app"},
        "https://bitbucket.org/team/app/pipelines/results/7",
    ),
    "azure": (
        {
            "TF_BUILD": "True",
            "BUILD_SOURCEVERSION": SHA,
            "SYSTEM_COLLECTIONURI": "https://dev.azure.example/team/",
            "SYSTEM_TEAMPROJECT": "app",
            "BUILD_BUILDID": "9",
        },
        "https://dev.azure.example/team/app/_build/results?buildId=9",
    ),
    "buildkite": (
        {"BUILDKITE": "true", "BUILDKITE_COMMIT": SHA, "BUILDKITE_BUILD_URL": "https://b.example"},
        "https://b.example",
    ),
    "bitrise": (
        {"BITRISE_IO": "true", "GIT_CLONE_COMMIT_HASH": SHA, "BITRISE_BUILD_URL": "https://r.example"},
        "https://r.example",
    ),
    "codemagic": (
        {"CM_BUILD_ID": "b", "CM_PROJECT_ID": "p", "CM_COMMIT": SHA},
        "https://codemagic.io/app/p/build/b",
    ),
    "codebuild": (
        {
            "CODEBUILD_BUILD_ID": "x",
            "CODEBUILD_RESOLVED_SOURCE_VERSION": SHA,
            "CODEBUILD_BUILD_URL": "https://a.example",
        },
        "https://a.example",
    ),
    "travis": (
        {"TRAVIS": "true", "TRAVIS_COMMIT": SHA, "TRAVIS_BUILD_WEB_URL": "https://t.example"},
        "https://t.example",
    ),
    "drone": ({"DRONE": "true", "DRONE_COMMIT_SHA": SHA, "DRONE_BUILD_LINK": "https://d.example"}, "https://d.example"),
}


@pytest.mark.parametrize(("environ", "url"), BUILDS.values(), ids=BUILDS)
def test_systems(environ, url):
    assert context_from(environ) == RequestContext(source_revision=SHA, build_url=url)


@pytest.mark.parametrize("environ", [{}, {"GIT_COMMIT": SHA, "BUILD_URL": "u"}, {"GITHUB_ACTIONS": ""}])
def test_outside_of_one(environ):
    assert context_from(environ) == RequestContext()


def test_variables_that_are_missing():
    assert context_from({"GITHUB_ACTIONS": "true", "GITHUB_SHA": SHA}) == RequestContext(source_revision=SHA)


@pytest.mark.parametrize("url", ["u" * 513, "https://x.example/\n", "a\x1b[0m"])
def test_what_no_request_may_carry(url):
    environ = {"GITLAB_CI": "true", "CI_COMMIT_SHA": SHA, "CI_JOB_URL": url}
    assert context_from(environ) == RequestContext(source_revision=SHA)


def test_flags_go_first():
    context = RequestContext(source_revision="ci", build_url="ci")
    merged = with_flags(context, app_id="com.example.app", bundle_version=None, source_revision="flag", build_url=None)
    assert merged == RequestContext("com.example.app", "", "flag", "ci")
