"""Do things that depend on each other, as many at a time as there are ready."""

import threading
import time


class Failed(Exception):
    """One or more tasks failed; `problems` is name -> exception."""

    def __init__(self, problems):
        super().__init__(", ".join(problems))
        self.problems = problems


def run(steps, report):
    """Run steps {name: (names it waits for, function)}; `report(name, seconds)` after each.

    After a failure nothing new is started, what is under way is waited for, and Failed says which failed and why.
    """
    lock = threading.Condition()
    done, begun, problems = set(), set(), {}

    def work(name, function):
        start = time.monotonic()
        try:
            function()
            report(name, time.monotonic() - start)
            failure = None
        except Exception as problem:
            failure = problem
        with lock:
            if failure is not None:
                problems[name] = failure
            done.add(name)
            lock.notify_all()

    threads = []
    with lock:
        while len(done) < len(steps):
            for name, (needs, function) in steps.items():
                if name not in begun and not problems and done.issuperset(needs):
                    begun.add(name)
                    thread = threading.Thread(target=work, args=(name, function), name=name)
                    threads.append(thread)
                    thread.start()
            if begun == done:
                break
            lock.wait()
    for thread in threads:
        thread.join()
    if problems:
        raise Failed(problems)
    unreachable = set(steps) - done
    if unreachable:
        raise ValueError(f"steps wait for each other: {sorted(unreachable)}")
