"""Walk all pages of the built site in a real browser, on a narrow screen and on a wide one.

    docs_test.py [SITE] [--shots FOLDER]

SITE is the folder of the site, `_docs/` when not given; it must have been built. Of each page one line tells what was found. Looked for are
links and pictures that lead nowhere, errors on the console, pages without a heading, pages of notebooks that are missing, and pages that must be moved
sideways at 400 pixels. Nothing outside the site is asked: requests to other hosts are answered with nothing, and links there are only counted.
"""
import argparse, os, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from browser import browser, listening, need_browser

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (400, 1400)
MADE = {'genindex.html', 'py-modindex.html', 'search.html'}   # by Sphinx, without our text

# What a page holds, as seen from inside of it
LOOK = """() => {
    const seen = e => { const r = e.getBoundingClientRect(), s = getComputedStyle(e); return r.width > 0 && s.visibility != 'hidden' && s.display != 'none' };
    const scrolls = e => { for (let p = e.parentElement; p && p != document.documentElement; p = p.parentElement)
                               if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX)) return true; return false };
    const wide = [...document.querySelectorAll('main *, article *')].filter(e => seen(e) && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e));
    return {
        title: document.title,
        headings: [...document.querySelectorAll('main h1, article h1')].filter(seen).map(e => e.innerText.trim()),
        bars: [...document.querySelectorAll('main p, article p')].filter(e => e.innerText.startsWith('| ')).map(e => e.innerText.slice(0, 60)),
        links: [...document.querySelectorAll('a[href]')].map(e => e.href),
        ids: [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name),
        images: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 120)),
        sideways: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth,
        wide: wide.slice(0, 3).map(e => e.tagName.toLowerCase() + '.' + e.className + ' ' + (e.innerText || '').slice(0, 60)),
        text: (document.querySelector('main, article') || document.body).innerText.length }
}"""


class Quiet(SimpleHTTPRequestHandler):
    "A server of files that does not tell every request"
    def log_message(self, *args): pass


def serve(folder):
    "Serve a folder on a free port of this machine"
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f'http://127.0.0.1:{server.server_port}/'


def ours(route, root):
    "Let requests to our own server pass, answer all others with nothing"
    if route.request.url.startswith((root, 'data:', 'blob:')): route.continue_()
    else: route.fulfill(status=204, body='')


def look(page, root, name, width, shots):
    "Open a page at a width; what it holds, and what went wrong meanwhile"
    page.set_viewport_size(dict(width=width, height=900))
    with listening(page) as heard:
        page.goto(root + name, wait_until='load')
        page.evaluate("document.querySelectorAll('img[loading=lazy]').forEach(i => i.loading = 'eager')")
        page.wait_for_timeout(150)
        found = page.evaluate(LOOK)
        if shots: page.screenshot(path=shots/f"{name.replace('/', '_')}_{width}.png", full_page=width==WIDTHS[0])
    return found, [h for h in heard if h]


def addresses():
    "Pages that the notebooks should have, and addresses that two of them claim"
    os.chdir(ROOT)
    from docs import address, pages
    names = ['index.html', *map(address, pages())]
    return set(names), {n for n in names if names.count(n)>1}


def broken_links(found, root, own=''):
    "Links inside the site that lead to no page, or to no place in it; `own` is the address that the published site has"
    bad = []
    for name, page in found.items():
        for href in sorted(set(page['links'])):
            if own and href.startswith(own): href = root + href[len(own):]
            if not href.startswith(root): continue
            target, anchor = urldefrag(href)
            path = unquote(urlsplit(target).path).lstrip('/') or 'index.html'
            if path in found: missing = anchor and unquote(anchor) not in found[path]['ids'] and anchor
            else: missing = not (SITE/path).is_file() and path
            if missing: bad.append((name, f'link to {href.removeprefix(root)}'))
    return bad


def walk(site, shots=None):
    "All pages at all widths: faults by page, and a line about each"
    server, root = serve(site)
    names = sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html') if not p.relative_to(site).parts[0].startswith('_'))
    found, faults = {}, {n: [] for n in names}
    with browser() as b:
        context = b.new_context()
        context.route('**/*', lambda route: ours(route, root))
        page = context.new_page()
        for name in names:
            for width in WIDTHS:
                here, heard = look(page, root, name, width, shots)
                faults[name] += [f'{width} px: {h}' for h in heard] + [f'{width} px: picture does not show: {i}' for i in here['images']]
                faults[name] += [f'a table that was not made one: {t}' for t in here['bars']]
                if width==WIDTHS[0]:
                    if here['sideways']>0: faults[name].append(f"{width} px: {here['sideways']} px too wide: {'; '.join(here['wide']) or 'outside of the text'}")
                    if not here['headings'] and name not in MADE: faults[name].append('no heading')
                    elif len(here['headings'])>1: faults[name].append(f"{len(here['headings'])} main headings: {here['headings']}")
                found[name] = here
    server.shutdown()
    return root, found, faults


def main():
    global SITE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('site', nargs='?', type=Path, default=ROOT/'_docs')
    parser.add_argument('--shots', type=Path, help='folder for a picture of each page at each width')
    args = parser.parse_args()
    need_browser('pages of the site')
    SITE = args.site.resolve()
    if not (SITE/'index.html').exists(): sys.exit(f'{SITE} holds no site; build it with make docs')
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    root, found, faults = walk(SITE, args.shots)
    from nbdev.config import get_config
    wanted, double = addresses()
    cfg = get_config()
    for name, fault in broken_links(found, root, cfg['doc_host'] + cfg['doc_baseurl'] + '/'): faults[name].append(fault)
    for name in sorted(wanted-found.keys()): faults[name] = ['this page is missing from the site']
    for name in sorted(double): faults.setdefault(name, []).append('two notebooks have this address; one overwrites the other')
    for name, bad in faults.items():
        here = found.get(name)
        told = f"{len(here['links'])} links, {here['text']} letters" if here else ''
        print(f"{'FAILED' if bad else 'passed'}  {name}  {told}", *bad, sep='\n        ' if bad else '  ', flush=True)
    failed = sum(map(bool, faults.values()))
    print(f'{len(faults)-failed} pages passed, {failed} failed, at {" and ".join(map(str, WIDTHS))} px', flush=True)
    sys.exit(bool(failed))


if __name__=='__main__': main()
