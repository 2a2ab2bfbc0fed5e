"""Try the page of `textseg_app` as its users do: in a real browser, and with 20 clients at once.

    app_test.py [--model MODEL] [--shots FOLDER]

The command itself is started, in a process of its own. MODEL is what `textseg_app` takes; when not given, the segmenter that is shipped, or if there
is none, the miniature after two steps of fine-tuning, which draws nothing sensible, but draws.
"""
import os
os.environ['OMP_NUM_THREADS'] = '1'   # one way to add up for the page and for us: answers are compared to the last pixel

import argparse, io, json, queue, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from browser import browser, listening, need_browser

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 20
LIMITS = dict(megabytes=2, megapixels=4)
START = 'from textseg.commands.app import textseg_app\nif __name__=="__main__": textseg_app()'   # as pip writes it for a console command
results = []


def check(name, test, *args):
    "Run a check and print a line"
    start = time.time()
    try: test(*args)
    except Exception as e: why = f'{type(e).__name__}: {e}'[:3000]
    else: why = ''
    results.append(not why)
    print(f"{'FAILED' if why else 'passed'} {time.time()-start:6.1f} s  {name}", *([why] if why else []), sep='\n        ', flush=True)


def scenes(n):
    "Photos as PNG bytes"
    from PIL import Image
    from textseg.data.scenes import draw_scenes
    for scene, _ in draw_scenes(n, seed=1, stream='app_test', size=96):
        with io.BytesIO() as f:
            Image.fromarray(scene.image).save(f, 'png')
            yield f.getvalue()


def some_model(folder):
    "The segmenter that is shipped, or one that is made here"
    from textseg.models.tiny import model_folder
    if Path(model_folder('tiny-seg')).exists(): return 'tiny-seg'
    from textseg.data.dataset import TextSegmentation
    from textseg.data.scenes import write_scenes
    from textseg.recipes.finetune import fine_tune
    from textseg.sources.open import open_source
    write_scenes(folder/'scenes', 16, 4, seed=0, workers=1)
    examples = TextSegmentation(open_source(folder/'scenes', 'train'), size=64, seed=0, absent=.2)
    fine_tune(examples, folder/'run', 2, quiet=True, batch_size=8)
    return str(folder/'run')


@contextmanager
def command(model, folder):
    "The page, as the command opens it; its address"
    args = [f'--{k}={v}' for k, v in LIMITS.items()]
    start = folder/'textseg_app.py'
    start.write_text(START)
    process = subprocess.Popen([sys.executable, start, '--model', model, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
                               env={**os.environ, 'PYTHONPATH': str(ROOT)})
    lines, log = queue.Queue(), []
    def read():
        for line in process.stdout: log.append(line); lines.put(line)
        lines.put('')
    threading.Thread(target=read, daemon=True).start()
    try:
        while 'the page is at ' not in (line := lines.get(timeout=180)):
            if not line: raise SystemExit('the command ended: ' + ''.join(log))
        yield line.split('the page is at ')[1].split()[0], log
    finally:
        process.terminate()
        process.wait(20)


def toast(page):
    "What the page complains about, once it does"
    page.wait_for_selector('.toast-body', timeout=60_000)
    text = page.inner_text('.toast-body')
    page.click('.toast-close')
    page.wait_for_selector('.toast-body', state='detached')
    return text


def upload(page, name, data):
    "Replace the photo"
    if page.locator('#photo button[aria-label="Clear"]').count(): page.click('#photo button[aria-label="Clear"]')
    page.set_input_files('#photo input[type=file]', files=[dict(name=name, mimeType='image/png', buffer=data)])


def send(page, name, data, names):
    "Upload, type, click"
    upload(page, name, data)
    page.wait_for_selector('#photo img')
    page.fill('#names textarea', names)
    page.click('#segment')


def segments(page, photo, shots, width):
    "Upload, type, see a mask, take it home"
    from PIL import Image
    from pycocotools import mask as rle
    send(page, 'photo.png', photo, 'red star\nblue circle')
    page.wait_for_function("document.querySelectorAll('#found img').length==6", timeout=120_000)
    page.wait_for_function("[...document.querySelectorAll('#found img')].every(i => i.complete && i.naturalWidth==96)")
    told = page.inner_text('#found')
    assert all(t in told for t in ('red star: painted', 'blue circle: score')), told
    assert [t.split(':')[0] for t in page.locator('#words li').all_inner_texts()]==['red star', 'blue circle']
    hrefs = page.eval_on_selector_all('#files a[href]', 'as => as.map(a => a.href)')
    files = {h.rsplit('/', 1)[1]:page.request.get(h).body() for h in hrefs}
    assert set(files)=={'red_star.png', 'blue_circle.png', 'masks.json'}, list(files)
    masks = {n:Image.open(io.BytesIO(files[f'{n}.png'])) for n in ('red_star', 'blue_circle')}
    assert all(m.size==(96, 96) for m in masks.values()), masks
    entries = json.loads(files['masks.json'])
    assert len(entries)==sum(m.getextrema()[1]>0 for m in masks.values()), entries
    for e in entries:
        assert (rle.decode(e['segmentation']).astype(bool)==masks[e['text'].replace(' ', '_')]).all(), 'the JSON and the PNG differ'
    assert page.evaluate('Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth')<=0, 'the page must be moved sideways'
    if shots: page.screenshot(path=shots/f'app_{width}.png', full_page=True)


def complains(page, photo):
    "What the page does not take is told in a sentence"
    from PIL import Image
    with io.BytesIO() as f:
        Image.new('1', (3000, 2000)).save(f, 'png')
        bomb = f.getvalue()
    send(page, 'bomb.png', bomb, 'star')
    assert 'the limit is 4 megapixels; make it smaller' in (text := toast(page)), text
    send(page, 'photo.png', photo, ' \n')
    assert 'type what to look for' in (text := toast(page)), text
    upload(page, 'large.png', photo + bytes(2_100_000))
    text = toast(page)
    assert 'exceed' in text.lower(), text
    print('        ', repr(text))
    upload(page, 'note.png', b'I am no picture')
    page.click('#segment')
    assert 'type what to look for' in (text := toast(page)), text
    page.fill('#names textarea', 'star')
    page.click('#segment')
    assert "note.png can't be read as a picture" in (text := toast(page)), text


def example(page):
    "An example is picked by a click, and asked about by another"
    page.reload()
    page.wait_for_selector('#segment')
    page.click('.gallery-item, table tbody tr, [data-testid=dataset] button')
    page.wait_for_selector('#photo img')
    page.wait_for_function("document.querySelector('#names textarea').value.length>3")
    page.click('#segment')
    page.wait_for_selector('#found img', timeout=120_000)


def in_browser(url, photo, shots):
    "All that one person does, on a narrow screen and on a wide one"
    def only_ours(route): route.continue_() if route.request.url.startswith((url, 'data:', 'blob:')) else route.fulfill(status=204, body='')
    with browser() as b:
        for width in (400, 1400):
            page = b.new_page(viewport=dict(width=width, height=900))
            page.route('**/*', only_ours)
            with listening(page) as heard:
                page.goto(url)
                page.wait_for_selector('#segment', timeout=60_000)
                check(f'upload, type, see a mask, download it ({width} px)', segments, page, photo, shots, width)
                check(f'an example is picked and asked about ({width} px)', example, page)
                def silent(): assert not heard, '\n'.join(heard)
                check(f'no error on the console ({width} px)', silent)
            if width==1400: check('limits and faults are told in one sentence', complains, page, photo)
            page.close()


def one_client(url, photo, name, threshold):
    "What one client gets: the entries of its JSON"
    from gradio_client import Client, handle_file
    with tempfile.TemporaryDirectory() as d:
        client = Client(url, download_files=d, verbose=False, analytics_enabled=False)
        (Path(d)/'photo.png').write_bytes(photo)
        *_, files = client.predict(handle_file(f'{d}/photo.png'), name, threshold, 0, 1, 1, api_name='/segment')
        return json.loads(next(Path(f) for f in files if f.endswith('.json')).read_text())


def many_clients(url, pipe):
    "Twenty at once, each with a photo and a name of its own: each gets the answer to its own question"
    from PIL import Image
    from textseg.commands.app import ask, downloads
    photos, names = list(scenes(CLIENTS)), [f'{c} {s}' for c in ('red', 'green', 'blue', 'yellow') for s in ('circle', 'square', 'star', 'cross', 'triangle')]
    threshold = .2
    with ThreadPoolExecutor(CLIENTS) as pool: got = list(pool.map(lambda p, n: one_client(url, p, n, threshold), photos, names))
    with tempfile.TemporaryDirectory() as d:
        for photo, name, entries in zip(photos, names, got):
            downloads(d, ask(pipe, Image.open(io.BytesIO(photo)).convert('RGB'), [name], threshold, radius=0))
            wanted = json.loads(Path(d, 'masks.json').read_text())
            assert entries==wanted, f'{name}: {entries} instead of {wanted}'
    assert len({json.dumps(e) for e in got})>1, 'all got the same answer'
    print(f'        {sum(map(bool, got))} of {CLIENTS} found something', flush=True)


def stays_inside(url):
    "No file outside of the page's folder is served"
    for path in (ROOT/'settings.ini', '/etc/passwd', 'settings.ini', '%2e%2e/settings.ini', f'{ROOT}/nbs/../settings.ini'):
        for kind in ('file=', 'file/'):
            try:
                with urllib.request.urlopen(f'{url}gradio_api/{kind}{path}', timeout=20) as r: raise AssertionError(f'{kind}{path} was served: {r.read(40)}')
            except urllib.error.HTTPError as e: assert e.code in (403, 404), f'{kind}{path}: {e.code}'


def gone(before):
    "Nothing stays behind"
    left = set(Path(tempfile.gettempdir()).glob('textseg_app_*')) - before
    assert not left, left


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', help='what textseg_app takes')
    parser.add_argument('--shots', type=Path, help='folder for pictures of the page')
    args = parser.parse_args()
    need_browser('the page of textseg_app')
    if not find_spec('gradio'):
        print("skipped: the page of textseg_app: Gradio is not installed; pip install 'textseg[app]'")
        sys.exit(1 if os.environ.get('TEXTSEG_BROWSER')=='must' else 0)
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    import diffusers, torch, transformers
    for library in (diffusers, transformers): library.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    from textseg.methods.registry import open_segmenter
    with tempfile.TemporaryDirectory() as d:
        before = set(Path(tempfile.gettempdir()).glob('textseg_app_*'))
        model = args.model or some_model(Path(d))
        with command(model, Path(d)) as (url, log):
            in_browser(url, next(scenes(1)), args.shots)
            check(f'{CLIENTS} clients at once', many_clients, url, open_segmenter(model))
            check('no file outside of its folder is served', stays_inside, url)
        check('its folder is gone when it is closed', gone, before)
    failed = results.count(False)
    if failed: print('The command said:', ''.join(log)[-4000:], sep='\n')
    print(f'{len(results)-failed} passed, {failed} failed', flush=True)
    sys.exit(bool(failed))


if __name__=='__main__': main()
