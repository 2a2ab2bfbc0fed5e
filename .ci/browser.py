"""A headless Chromium for the tests of the site and of the page.

It is Debian's, or the one that the environment variable CHROMIUM names; playwright only drives it, and never fetches a browser of its own.
"""
import os, shutil, sys
from contextlib import contextmanager
from importlib.util import find_spec

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']
SKIPPED = 77   # the exit code of a test that could not run, as automake and others have it


def chromium():
    "Where Chromium is, or None"
    return next(filter(None, map(shutil.which, [os.environ.get('CHROMIUM', ''), 'chromium', 'chromium-browser', 'google-chrome'])), None)


def skip(why):
    "End with one line and the code for a skipped test; but with 1 where a browser was promised, as in CI"
    print(f'skipped: {why}', flush=True)
    sys.exit(1 if os.environ.get('TEXTSEG_BROWSER')=='must' else SKIPPED)


def need_browser(what):
    "Skip the test where there is no browser"
    missing = None if find_spec('playwright') else 'playwright is not installed'
    if not chromium(): missing = 'Chromium is not at hand; on Debian: apt-get install chromium'
    if missing: skip(f'{what}: {missing}')


@contextmanager
def browser():
    "A started browser with a new, empty profile"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium(), args=FLAGS)   # a profile of its own is playwright's habit
        try: yield b
        finally: b.close()


@contextmanager
def listening(page):
    "Collect what goes wrong in a page: errors on its console, exceptions, requests that fail, answers from 400 on"
    heard = []
    def on_console(m): m.type=='error' and heard.append(f'console: {m.text}')
    def on_exception(e): heard.append(f'exception: {e}')
    def on_failure(r): 'ERR_ABORTED' in (r.failure or '') or heard.append(f'no answer: {r.url} {r.failure}')   # aborted: the page itself lost interest
    def on_response(r): r.status>=400 and heard.append(f'{r.status}: {r.url}')
    handlers = dict(console=on_console, pageerror=on_exception, requestfailed=on_failure, response=on_response)
    for event, f in handlers.items(): page.on(event, f)
    try: yield heard
    finally:
        for event, f in handlers.items(): page.remove_listener(event, f)
