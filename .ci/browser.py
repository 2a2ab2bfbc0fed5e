"""A headless Chromium for the tests of the site and of the page.

It is Debian's, or the one that the environment variable CHROMIUM names; playwright only drives it, and never fetches a browser of its own.
"""
import os, shutil, sys
from contextlib import contextmanager
from importlib.util import find_spec

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']


def chromium():
    "Where Chromium is, or None"
    return next(filter(None, map(shutil.which, [os.environ.get('CHROMIUM', ''), 'chromium', 'chromium-browser', 'google-chrome'])), None)


def need_browser(what):
    "End with one line and 0 where there is no browser to test with; but end with 1 where one was promised, as in CI"
    missing = None if find_spec('playwright') else 'playwright is not installed'
    if not chromium(): missing = 'Chromium is not at hand; on Debian: apt-get install chromium'
    if not missing: return
    print(f'skipped: {what}: {missing}', flush=True)
    sys.exit(1 if os.environ.get('TEXTSEG_BROWSER')=='must' else 0)


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
