"""Runs Autobahn's cases against a server and writes what came out: client.py URL TABLE [PATTERN].

What a case sends, when it closes and how it judges is the suite's; the wire is the package
`autobahn`'s. This connects, case after case, and counts. Exits with 1 if any case failed.
"""

import datetime
import fnmatch
import sys

import autobahn
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from twisted.internet import reactor

import suite

PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")


class Client(WebSocketClientProtocol):
    """What a case sees of a connection, its strings being bytes."""

    def connectionMade(self):
        self.connectionWasOpen = False
        self.createWirelog = False
        self.txFrameStats = {}
        self.case = self.factory.case(self)
        super().connectionMade()

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.case.onConnectionLost(self.failedByMe)
        self.factory.done(self.case)

    def onOpen(self):
        self.connectionWasOpen = True
        self.case.onOpen()

    def onMessage(self, payload, isBinary):
        self.case.onMessage(payload.decode("latin-1"), isBinary)

    def onPong(self, payload):
        self.case.onPong(payload.decode("latin-1"))

    def onClose(self, wasClean, code, reason):
        self.case.onClose(wasClean, code, reason)

    def logTxFrame(self, frameHeader, payload, repeatLength, chopsize, sync):
        self.txFrameStats[frameHeader.opcode] = self.txFrameStats.get(frameHeader.opcode, 0) + 1

    def logRxFrame(self, frameHeader, payload):
        pass

    def sendFrame(self, opcode, payload=b"", **options):
        super().sendFrame(opcode, payload=suite.raw(payload), **options)

    def sendMessage(self, payload, isBinary=False, **options):
        super().sendMessage(suite.raw(payload), isBinary, **options)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(suite.raw(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, suite.raw(reasonUtf8), isReply)

    def enableWirelog(self, _enable):
        pass

    def continueLater(self, delay, step, _tag=None):
        self.unless_closed(delay, step)

    def killAfter(self, delay):
        self.unless_closed(delay, self.failConnection)

    def failConnection(self):
        self._fail_connection()

    def closeAfter(self, delay):
        self.unless_closed(delay, self.sendClose)

    def unless_closed(self, delay, step):
        reactor.callLater(delay, lambda: None if self.state == self.STATE_CLOSED else step())


class Run:
    """One case after another."""

    def __init__(self, url, cases):
        self.url = url
        self.left = list(cases.items())
        self.results = {}

    def next(self):
        if not self.left:
            return reactor.stop()
        name, case = self.left.pop(0)
        factory = WebSocketClientFactory(self.url)
        factory.protocol = Client
        factory.case = case
        factory.logFrames = True
        factory.setProtocolOptions(failByDrop=False)
        factory.done = lambda finished: self.done(name, finished)
        factory.clientConnectionFailed = lambda _connector, reason: self.fail(reason)
        connectWS(factory)

    def done(self, name, case):
        self.results[name] = case
        if not passed(case):
            print(f"{name}: {case.behavior}, close {case.behaviorClose}: {case.result} {case.resultClose}")
        reactor.callLater(0, self.next)

    def fail(self, reason):
        print(f"no connection to {self.url}: {reason.getErrorMessage()}")
        reactor.stop()


def passed(case):
    return case.behavior in PASSED and case.behaviorClose in PASSED


def section(name, sections):
    """The part of the suite that a case belongs to: 6.4 where there are such, else 5."""
    two = ".".join(name.split(".")[:2])
    return two if two in sections else name.split(".")[0]


def table(results, sections):
    lines = ["| section | | cases | OK | non-strict | informational | failed |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    rows = {}
    for name, case in results.items():
        row = rows.setdefault(section(name, sections), [0] * 5)
        verdict = PASSED.index(case.behavior) if passed(case) else 3
        row[0] += 1
        row[1 + verdict] += 1
    total = [sum(column) for column in zip(*rows.values())]
    for key, row in rows.items():
        lines.append("| " + " | ".join([key, sections[key], *map(str, row)]) + " |")
    lines.append("| **all** | | " + " | ".join(f"**{count}**" for count in total) + " |")
    return "\n".join(lines)


def page(results, sections):
    informational = [name for name, case in results.items() if case.behavior == "INFORMATIONAL"]
    non_strict = [name for name, case in results.items() if case.behavior == "NON-STRICT"]
    return f"""# The Autobahn suite

The gateway's server side of RFC 6455 ([crates/gateway/src/ws](../crates/gateway/src/ws)) against
sections 1 to 10 of the [Autobahn|Testsuite](https://github.com/crossbario/autobahn-testsuite), behind
[an echo server](../crates/gateway/examples/echo.rs) that adds nothing to it. `make autobahn` runs it
and writes this page. Sections 12 and 13 are about permessage-deflate, which is not spoken.

`autobahntestsuite` {suite.VERSION} (PyPI), `autobahn` {autobahn.__version__} as its client, {datetime.date.today()}.
The suite's own runner needs Python 2; its cases run unchanged under Python 3, see
[tests/autobahn](../tests/autobahn).

{table(results, sections)}

Non-strict: {", ".join(non_strict) or "none"}. Informational, where the standard asks for nothing in particular:
{", ".join(informational) or "none"}.
"""


def main(url, path, pattern="*"):
    cases, sections = suite.load()
    cases = {name: case for name, case in cases.items() if fnmatch.fnmatch(name, pattern)}
    run = Run(url, cases)
    reactor.callWhenRunning(run.next)
    reactor.run()
    failed = [name for name, case in run.results.items() if not passed(case)]
    if len(run.results) < len(cases):
        sys.exit(f"{len(run.results)} of {len(cases)} cases were run")
    if pattern == "*":
        with open(path, "w", encoding="utf-8") as file:
            file.write(page(run.results, sections))
    for verdict in PASSED:
        print(f"{verdict}: {sum(passed(case) and case.behavior == verdict for case in run.results.values())}")
    print(f"{len(cases) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
