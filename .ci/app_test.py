"""Try the page of `textseg_app` as its users do: in a real browser, and with 20 clients at once.

    app_test.py [--model MODEL] [--shots FOLDER]

The command itself is started, in a process of its own: for MODEL, which is asked by a text ('tiny-seg' when not
given); for 'tiny-sam', which is asked by clicks; and for two toy methods that are registered here, one asked by a
support photo, one asked nothing. Without a browser the exit code is 77.
"""
import os
os.environ['OMP_NUM_THREADS'] = '1'   # one way to add up for the page and for us: answers are equal to the last pixel

import argparse, importlib, io, json, queue, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from browser import browser, listening, need_browser, skip

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 20
LIMITS = dict(megabytes=2, megapixels=4)
START = '''
import toys
from textseg.commands.app import textseg_app
if __name__=="__main__": textseg_app()
'''   # as pip writes it for a console command, but with toys registered
TOYS = '''
import numpy as np
from textseg.core import Method, Prediction
from textseg.methods.registry import METHODS

class Alike:
    "Finds the mean colour of what is shown, or of each label that is"
    size, method = 64, property(lambda self: METHODS['toy-alike'])
    def like(self, photo, name, shown):
        far = np.abs(np.asarray(photo)/255. - shown.mean(0)/255.).max(-1)
        return Prediction(name, (1-far/.3).clip(0, 1).astype(np.float32))
    def segment(self, photo, questions, generator):
        (shown, mask), = questions.support
        masks = {'as shown': mask} if mask.dtype==bool else {f'label {k}': mask==k for k in np.unique(mask[mask>0])}
        return [self.like(photo, name, np.asarray(shown)[m]) for name, m in masks.items()]

class Levels:
    "Cuts a photo at two levels of grey"
    size, method = 64, property(lambda self: METHODS['toy-levels'])
    def segment(self, photo, questions, generator):
        ids = np.digitize(np.asarray(photo.convert('L')), (90, 160)).astype(np.int32) + 1
        return [Prediction('', segments=ids, segments_info=[dict(id=int(i)) for i in np.unique(ids)])]

METHODS['toy-alike'] = Method('toy-alike', [], lambda folder: Alike(), 'support')
METHODS['toy-levels'] = Method('toy-levels', [], lambda folder: Levels(), 'nothing')
'''
results = []


def check(name, test, *args):
    "Run a check and print a line"
    start = time.time()
    try: test(*args)
    except Exception as e: why = f'{type(e).__name__}: {e}'[:3000]
    else: why = ''
    results.append(not why)
    line = f"{'FAILED' if why else 'passed'} {time.time()-start:6.1f} s  {name}"
    print(line, *([why] if why else []), sep='\n        ', flush=True)


def png(image):
    "A picture as PNG bytes"
    with io.BytesIO() as f:
        image.save(f, 'png')
        return f.getvalue()


def scenes(n):
    "Drawn photos with their masks"
    from textseg.data.scenes import draw_scenes
    return [scene for scene, _ in draw_scenes(n, seed=1, stream='app_test', size=96)]


def photo_of(scene):
    "A photo as PNG bytes"
    from PIL import Image
    return png(Image.fromarray(scene.image))


def write_toys(folder):
    "The command with toy methods registered, and a folder of a model for each"
    from textseg.core import save_method
    (folder/'toys.py').write_text(TOYS)
    (folder/'textseg_app.py').write_text(START)
    for name in ('toy-alike', 'toy-levels'): save_method(folder/name, name)


@contextmanager
def command(model, folder, log):
    "The page, as the command opens it; its address"
    args = [f'--{k}={v}' for k, v in LIMITS.items()]
    paths = os.pathsep.join(map(str, (ROOT, folder)))
    process = subprocess.Popen([sys.executable, folder/'textseg_app.py', '--model', model, *args], text=True, cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': paths})
    lines = queue.Queue()
    def read():
        for line in process.stdout: log.append(line); lines.put(line)
        lines.put('')
    threading.Thread(target=read, daemon=True).start()
    try:
        while 'the page is at ' not in (line := lines.get(timeout=180)):
            if not line: raise SystemExit('the command ended: ' + ''.join(log))
        yield line.split('the page is at ')[1].split()[0]
    finally:
        start = time.time()
        process.terminate()
        process.wait(120)   # on a busy machine
        print(f'         closed in {time.time()-start:.1f} s', flush=True)


def toast(page):
    "What the page complains about, once it does"
    page.wait_for_selector('.toast-body', timeout=60_000)
    text = page.inner_text('.toast-body')
    page.click('.toast-close')
    page.wait_for_selector('.toast-body', state='detached')
    return text


def upload(page, field, name, data):
    "Replace the picture of a field"
    clear = page.locator(f'#{field} button[aria-label="Remove Image"]')
    if clear.count(): clear.click()
    page.set_input_files(f'#{field} input[type=file]', files=[dict(name=name, mimeType='image/png', buffer=data)])


def send(page, name, data, names):
    "Upload, type, click"
    upload(page, 'photo', name, data)
    page.wait_for_selector('#photo img')
    page.fill('#names textarea', names)
    page.click('#segment')


def answered(page, n):
    "Wait for so many pictures, and return the downloads by their names"
    page.wait_for_function(f"document.querySelectorAll('#answers img').length=={n}", timeout=120_000)
    whole = "[...document.querySelectorAll('#answers img')].every(i => i.complete && i.naturalWidth>0)"
    page.wait_for_function(whole)
    page.wait_for_selector('#files a[href]')
    hrefs = page.eval_on_selector_all('#files a[href]', 'as => as.map(a => a.href)')
    return {h.rsplit('/', 1)[1]:page.request.get(h).body() for h in hrefs}


def fits(page, shots, name):
    "The page need not be moved sideways; a picture of it, if that was asked for"
    beyond = 'Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth'
    assert page.evaluate(beyond)<=0, 'the page must be moved sideways'
    if shots: page.screenshot(path=shots/f'{name}.png', full_page=True)


def segments(page, photo, shots, width):
    "Upload, type, see a mask, take it home"
    from PIL import Image
    from pycocotools import mask as rle
    send(page, 'photo.png', photo, 'yellow star\nblue square')
    files = answered(page, 6)
    text = page.inner_text('#answers')
    assert all(t in text for t in ('yellow star: painted', 'blue square: score')), text
    assert [t.split(':')[0] for t in page.locator('#words li').all_inner_texts()]==['yellow star', 'blue square']
    assert set(files)=={'yellow_star.png', 'blue_square.png', 'masks.json'}, list(files)
    masks = {n:Image.open(io.BytesIO(files[f'{n}.png'])) for n in ('yellow_star', 'blue_square')}
    assert all(m.size==(96, 96) for m in masks.values()), masks
    entries = json.loads(files['masks.json'])
    assert entries and len(entries)==sum(m.getextrema()[1]>0 for m in masks.values()), entries
    for e in entries:
        same = rle.decode(e['segmentation']).astype(bool)==masks[e['text'].replace(' ', '_')]
        assert same.all(), 'the JSON and the PNG differ'
    fits(page, shots, f'text_{width}')


def complains(page, photo):
    "What the page does not take is told in a sentence"
    from PIL import Image
    send(page, 'bomb.png', png(Image.new('1', (3000, 2000))), 'star')
    assert 'the limit is 4 megapixels; make it smaller' in (text := toast(page)), text
    send(page, 'photo.png', photo, ' \n')
    assert 'type what to look for' in (text := toast(page)), text
    upload(page, 'photo', 'large.png', photo + bytes(2_100_000))
    text = toast(page)
    assert 'exceed' in text.lower(), text
    print('        ', repr(text))
    upload(page, 'photo', 'note.png', b'I am no picture')
    page.fill('#names textarea', 'star')
    page.click('#segment')
    assert "note.png can't be read as a picture" in (text := toast(page)), text


def example(page, question):
    "An example is picked by a click, and asked about by another"
    page.reload()
    page.wait_for_selector('#segment')
    page.click('.gallery-item, table tbody tr, [data-testid=dataset] button')
    page.wait_for_selector('#photo img')
    if question: page.wait_for_function(f"document.querySelector('{question}').value.length>3")
    page.click('#segment')
    page.wait_for_selector('#answers img', timeout=120_000)


def click_at(page, x, y):
    "Click on a pixel of the photo, wherever and however large it is drawn"
    page.wait_for_function("(i => i && i.complete && i.naturalWidth>0)(document.querySelector('#photo img'))")
    width, height, box_width, box_height = page.eval_on_selector('#photo img', """i => {
        const r = i.getBoundingClientRect(); return [i.naturalWidth, i.naturalHeight, r.width, r.height]}""")
    scale = min(box_width/width, box_height/height, 1)     # Gradio never enlarges a photo
    left, top = (box_width-width*scale)/2, (box_height-height*scale)/2
    page.locator('#photo img').click(position=dict(x=left + (x+.25)*scale, y=top + (y+.25)*scale))


def typed(page, field, numbers):
    "Wait until a field holds so many numbers; these"
    value = f"document.querySelector('#{field} textarea, #{field} input').value"
    page.wait_for_function(f"{value}.split(/[ ,]+/).filter(v => v).length=={numbers}")
    return [int(v) for v in page.evaluate(value).replace(',', ' ').split()]


def clicks(page, photo, model, shots, width):
    "Points and a box by clicks; the mask is the one that the box has in Python"
    import numpy as np
    from PIL import Image
    from textseg.core import Questions
    from textseg.inference.segment import segment_photo
    from textseg.masks.points import BoxPrompts
    upload(page, 'photo', 'photo.png', photo)
    page.wait_for_selector('#photo img')
    click_at(page, 30, 40)
    point = typed(page, 'point', 2)
    assert abs(np.subtract(point, (30, 40))).max()<=1, point
    page.wait_for_selector('#asked img')
    page.click('#clicks label:has-text("a point off it")')
    click_at(page, 80, 10)
    typed(page, 'negative', 2)
    page.click('#clicks label:has-text("a corner of a box")')
    click_at(page, 70, 80)
    typed(page, 'box', 2)
    click_at(page, 20, 30)
    box = typed(page, 'box', 4)
    assert abs(np.subtract(box, (20, 30, 71, 81))).max()<=1, box
    typed(page, 'point', 0), typed(page, 'negative', 0)     # a box takes the place of the points
    page.click('#segment')
    files = answered(page, 2)
    assert set(files)=={'box_1.png', 'masks.json'}, list(files)
    questions = Questions(prompts=BoxPrompts(np.array([box], np.float32)))
    answer, = segment_photo(model, Image.open(io.BytesIO(photo)).convert('RGB'), questions)
    assert (np.asarray(Image.open(io.BytesIO(files['box_1.png'])))==answer.mask).all(), 'the page and Python differ'
    fits(page, shots, f'clicks_{width}')
    upload(page, 'photo', 'again.png', photo)
    typed(page, 'box', 0)                                   # a new photo begins anew
    page.wait_for_selector('#photo img')
    page.click('#segment')
    assert 'click on what to look for' in (text := toast(page)), text


def upload_shown(page, data):
    "Drop a photo to paint over"
    page.set_input_files('#shown input[type=file]', files=[dict(name='shown.png', mimeType='image/png', buffer=data)])
    page.wait_for_function("parseInt(document.querySelector('#shown .zoom-number')?.innerText)>0")
    page.wait_for_timeout(1000)              # until it is drawn


def paint(page, mask):
    "A short stroke of the brush in the middle of a mask of the photo, which the editor draws enlarged in its own middle"
    from textseg.masks.points import mask_point
    canvas, (x, y) = page.locator('#shown canvas').first, mask_point(mask)
    canvas.scroll_into_view_if_needed()
    box, zoom = canvas.bounding_box(), int(page.inner_text('#shown .zoom-number').strip('%'))/100
    left, top = (box[a] + box[side]/2 - n/2*zoom for a, side, n in zip('xy', ('width', 'height'), mask.shape[::-1]))
    page.mouse.move(left + x*zoom, top + y*zoom)
    page.mouse.down()
    page.mouse.move(left + (x+1)*zoom, top + y*zoom, steps=4)
    page.mouse.up()
    page.wait_for_timeout(500)


def equal_answers(files, toys, support, photo):
    "The page gives the masks that Python gives for a support"
    import numpy as np
    from PIL import Image
    from textseg.core import Questions
    from textseg.inference.segment import segment_photo
    for answer in segment_photo(toys.Alike(), Image.fromarray(photo), Questions(support=[support])):
        found = np.asarray(Image.open(io.BytesIO(files[f"{answer.name.replace(' ', '_')}.png"])))
        assert answer.mask.any(), f'{answer.name}: this photo has nothing of the kind: the test needs another scene'
        shared = (found & answer.mask).sum()/(found | answer.mask).sum()
        assert shared>.95, f'{answer.name}: the page and Python differ, IoU {shared:.2f}'


def shows(page, scene, other, toys, shots, width):
    "A photo and its mask are uploaded, and shown to a toy"
    from PIL import Image
    from textseg.core import Support
    upload(page, 'photo', 'photo.png', photo_of(other))
    page.wait_for_selector('#photo img')
    upload_shown(page, photo_of(scene))
    page.click('#segment')
    assert 'there is no mask of the support photo yet' in (text := toast(page)), text
    mask = next(m for m, k in zip(scene.masks, scene.object_classes) if k.texture=='plain')
    upload(page, 'shown_mask', 'mask.png', png(Image.fromarray(mask)))
    page.wait_for_selector('#shown_mask img')
    page.click('#segment')
    files = answered(page, 2)
    assert set(files)=={'as_shown.png', 'masks.json'}, list(files)
    equal_answers(files, toys, Support(Image.fromarray(scene.image), mask), other.image)
    fits(page, shots, f'support_{width}')


def paints(page, scene, other, toys, shots, width):
    "A photo is painted over, in one colour and then in two"
    from PIL import Image
    upload(page, 'photo', 'photo.png', photo_of(other))
    page.wait_for_selector('#photo img')
    upload_shown(page, photo_of(scene))
    plain, *others = sorted(range(len(scene.masks)), key=lambda i: scene.object_classes[i].texture!='plain')
    paint(page, scene.masks[plain])
    page.click('#segment')
    files = answered(page, 2)
    assert set(files)=={'as_shown.png', 'masks.json'}, list(files)
    assert Image.open(io.BytesIO(files['as_shown.png'])).getextrema()[1], 'nothing was found'
    page.click('#shown button[aria-label="Color"], #shown button[title="Color"]')
    page.click('#shown button.color >> nth=1')
    paint(page, scene.masks[others[0]])
    page.click('#segment')
    files = answered(page, 4)
    assert set(files)=={'label_1.png', 'label_2.png', 'masks.json'}, list(files)
    fits(page, shots, f'painted_{width}')


def divides(page, photo, shots, width):
    "Asked nothing, a toy gives a segment map"
    upload(page, 'photo', 'photo.png', photo)
    page.wait_for_selector('#photo img')
    page.click('#segment')
    files = answered(page, 1)
    assert set(files)=={'segments.png', 'panoptic.json'}, list(files)
    annotation, = json.loads(files['panoptic.json'])['annotations']
    assert sum(s['area'] for s in annotation['segments_info'])==96*96, annotation
    fits(page, shots, f'nothing_{width}')


def in_browser(url, tests):
    "What one person does, on a narrow screen and on a wide one: `tests` are `(name, test, arguments, widths)`"
    def only_ours(route):
        ours = route.request.url.startswith((url, 'data:', 'blob:'))
        return route.continue_() if ours else route.fulfill(status=204, body='')
    with browser() as b:
        for width in (400, 1400):
            page = b.new_page(viewport=dict(width=width, height=900))
            page.route('**/*', only_ours)
            for name, test, args, *only in tests:
                if only and width not in only: continue
                with listening(page) as heard:
                    page.goto(url)
                    page.wait_for_selector('#segment', timeout=60_000)
                    check(f'{name} ({width} px)', test, page, *(width if a=='width' else a for a in args))
                def silent(): assert not heard, '\n'.join(heard)
                if test is not complains: check(f'no error on the console after that ({width} px)', silent)
            page.close()


def one_client(url, photo, name, threshold):
    "What one client gets: the entries of its JSON"
    from gradio_client import Client, handle_file
    with tempfile.TemporaryDirectory() as d:
        client = Client(url, download_files=d, verbose=False, analytics_enabled=False)
        (Path(d)/'photo.png').write_bytes(photo)
        cleaning = 0, 0, 0, False
        *_, files = client.predict(handle_file(f'{d}/photo.png'), name, threshold, *cleaning, 1, 1, api_name='/segment')
        return json.loads(next(Path(f) for f in files if f.endswith('.json')).read_text())


def many_clients(url, model):
    "Twenty at once, each with a photo and a name of its own: each gets the answer to its own question"
    from PIL import Image
    from textseg.commands.answers import downloads
    from textseg.core import Questions
    from textseg.inference.segment import segment_photo
    colors, shapes = ('red', 'green', 'blue', 'yellow'), ('circle', 'square', 'star', 'cross', 'triangle')
    photos, names = list(map(photo_of, scenes(CLIENTS))), [f'{c} {s}' for c in colors for s in shapes]
    threshold = .2
    with ThreadPoolExecutor(CLIENTS) as pool:
        got = list(pool.map(lambda p, n: one_client(url, p, n, threshold), photos, names))
    with tempfile.TemporaryDirectory() as d:
        for photo, name, entries in zip(photos, names, got):
            image = Image.open(io.BytesIO(photo)).convert('RGB')
            downloads(d, segment_photo(model, image, Questions([name]), threshold, radius=0))
            wanted = json.loads(Path(d, 'masks.json').read_text())
            assert entries==wanted, f'{name}: {entries} instead of {wanted}'
    assert len({json.dumps(e) for e in got})>1, 'all got the same answer'
    print(f'        {sum(map(bool, got))} of {CLIENTS} found something', flush=True)


def stays_inside(url):
    "No file outside of the page's folder is served"
    local = ROOT/'settings.ini', 'settings.ini', '%2e%2e/settings.ini', f'{ROOT}/nbs/../settings.ini'
    for path in ('/etc/passwd', *local):
        for kind in ('file=', 'file/'):
            try:
                with urllib.request.urlopen(f'{url}gradio_api/{kind}{path}', timeout=20) as r:
                    raise AssertionError(f'{kind}{path} was served: {r.read(40)}')
            except urllib.error.HTTPError as e: assert e.code in (403, 404), f'{kind}{path}: {e.code}'


def gone(before):
    "Nothing stays behind"
    left = set(Path(tempfile.gettempdir()).glob('textseg_app_*')) - before
    assert not left, left


def try_pages(model, folder, shots, log):
    "A page of each way to ask"
    from textseg.methods.registry import open_segmenter
    toys = importlib.import_module('toys')
    scene, other = scenes(2)
    photo = photo_of(scene)
    with command(model, folder, log) as url:
        in_browser(url, [('upload, type, see a mask, download it', segments, (photo, shots, 'width')),
                         ('an example is picked and asked about', example, ('#names textarea',)),
                         ('limits and faults are told in one sentence', complains, (photo,), 1400)])
        check(f'{CLIENTS} clients at once', many_clients, url, open_segmenter(model))
        check('no file outside of its folder is served', stays_inside, url)
    with command('tiny-sam', folder, log) as url:
        sam = open_segmenter('tiny-sam')
        in_browser(url, [('points and a box by clicks', clicks, (photo, sam, shots, 'width')),
                         ('an example of a SAM', example, ('#box textarea, #box input',))])
    with command(folder/'toy-alike', folder, log) as url:
        in_browser(url, [('a photo and its mask are shown', shows, (scene, other, toys, shots, 'width')),
                         ('a photo is painted over and shown', paints, (scene, other, toys, shots, 'width')),
                         ('an example of a toy that is shown', example, ('',))])
    with command(folder/'toy-levels', folder, log) as url:
        in_browser(url, [('a photo is divided', divides, (photo, shots, 'width')),
                         ('an example of a toy that is asked nothing', example, ('',))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='tiny-seg', help='what textseg_app takes, asked by a text')
    parser.add_argument('--shots', type=Path, help='folder for pictures of the page')
    args = parser.parse_args()
    need_browser('the page of textseg_app')
    if not find_spec('gradio'): skip("the page of textseg_app: Gradio is not installed; pip install 'textseg[app]'")
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    import torch
    torch.set_num_threads(1)
    from textseg.commands.common import quieten
    quieten()
    before, log = set(Path(tempfile.gettempdir()).glob('textseg_app_*')), []
    with tempfile.TemporaryDirectory() as d:
        sys.path.insert(0, d)
        write_toys(Path(d))
        try_pages(args.model, Path(d), args.shots, log)
    check('their folders are gone when they are closed', gone, before)
    failed = results.count(False)
    if failed: print('The command said:', ''.join(log)[-4000:], sep='\n')
    print(f'{len(results)-failed} passed, {failed} failed', flush=True)
    sys.exit(bool(failed))


if __name__=='__main__': main()
