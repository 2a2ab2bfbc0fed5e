"""All tests, each one line, and a last line that counts them: `N passed, N failed`, and `, N skipped` where something could not run here.

The checkout is only read: what exports, cleans, builds or renders works on a copy, so that a check can't hide what it finds.
"""
import filecmp, os, shutil, subprocess, sys, tempfile, time
os.environ['OMP_NUM_THREADS'] = '1'  # before any worker imports torch: two notebooks share the cores

from configparser import ConfigParser
from importlib.metadata import distributions
from pathlib import Path
from textwrap import indent

import yaml
from fastcore.parallel import parallel
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parent.parent
NBDEV3_PAGES = 'sources/11_layout.ipynb', 'sources/22_jsonstream.ipynb', 'data/20_phrases.ipynb', 'evaluation/20_panoptic.ipynb'
results, seconds_of = [], {}


class Skipped(Exception):
    "A check that can't run here, and why"


def report(name, result, seconds, why=''):
    "Print one result"
    print(f"{result} {seconds:6.1f} s  {name}", flush=True)
    if why: print(indent(why.strip(), '    '), flush=True)
    return result


def check(name, test, *args):
    "Run a check; it fails by an exception, whose text says why"
    start = time.time()
    try: test(*args)
    except Skipped as e: result, why = 'skipped', str(e)
    except Exception as e: result, why = 'FAILED', str(e) if isinstance(e, AssertionError) else repr(e)
    else: result, why = 'passed', ''
    seconds_of[name] = time.time()-start
    results.append(report(name, result, seconds_of[name], why))


def sh(*command, cwd=ROOT, path=(), **env):
    "Run a command; if it fails, fail with the end of what it printed; 77 is the exit code of what could not run here"
    env = {**os.environ, **env}
    if path: env['PYTHONPATH'] = os.pathsep.join(map(str, path))
    res = subprocess.run([str(c) for c in command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if res.returncode==77: raise Skipped(res.stdout.strip().removeprefix('skipped: '))
    assert res.returncode==0, f"{' '.join(map(str, command))[:200]} exited with {res.returncode}:\n{(res.stdout + res.stderr)[-8000:]}"
    return res.stdout


def python(code, *args, **kwargs):
    "Run Python code in a fresh process"
    return sh(sys.executable, '-c', code, *args, **kwargs)


def copy_checkout(target):
    "Copy what git would commit, changed or not"
    files = sh('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0')
    for f in filter(None, files):
        if not (ROOT/f).is_file(): continue  # deleted, but not yet in git
        (target/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/f, target/f)
    return target


def fresh(copy, before):
    "Make a copy anew"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(before, copy)


def same(copy, before, remedy, *places):
    "Fail if a file in one of the places is not what it was"
    files = lambda root: {p.relative_to(root) for place in places for p in [root/place, *(root/place).rglob('*')]
                          if p.is_file() and '__pycache__' not in p.parts and not p.name.startswith('.')}
    changed = [str(f) for f in sorted(files(copy) | files(before))
               if not ((copy/f).is_file() and (before/f).is_file() and filecmp.cmp(copy/f, before/f, shallow=False))]
    assert not changed, f"{remedy} changes {', '.join(changed)}"


def exported(copy, before):
    "Modules are what the notebooks export, notebooks are clean"
    bin = Path(sys.executable).parent
    sh(bin/'nbdev_clean', cwd=copy)
    same(copy, before, 'nbdev_clean', 'nbs')
    sh(bin/'nbdev_export', cwd=copy, path=[copy])
    same(copy, before, 'nbdev_export', 'nbs', 'textseg')


def documented(copy):
    "Every page of the documentation can be processed, and the site built"
    sh(sys.executable, '.ci/docs.py', cwd=copy, path=[copy])


def committed_pages(copy, before):
    "README.md and the sidebar are what the notebooks say"
    assert (copy/'nbs/index.ipynb').exists(), 'nbs/index.ipynb is missing, and README.md is made from it'
    sh(sys.executable, '.ci/docs.py', '--readme', cwd=copy, path=[copy])
    same(copy, before, 'make readme', 'README.md', 'nbs')


def test_notebook(path, **kwargs):
    "Test a notebook as nbdev_test does and print a line when it is done"
    start, main_module = time.time(), sys.modules['__main__']
    ok, _ = test_nb(path, **kwargs)
    sys.modules['__main__'] = main_module  # the notebook took this name, and the pool looks here for the next task
    seconds = time.time()-start
    return report(str(path.relative_to(ROOT)), 'passed' if ok else 'FAILED', seconds), seconds


def notebooks():
    "Test all notebooks, two at a time; those of the upper floors, which take longest, first"
    cfg = get_config(path=ROOT)
    floors = yaml.safe_load((ROOT/'nbs/floors.yml').read_text())['floors']
    height = lambda path: floors.index(f) if (f := str(path.parent.relative_to(ROOT/'nbs'))) in floors else len(floors)
    paths = sorted((Path(p).absolute() for p in nbglob(cfg.nbs_path, as_path=True)), key=lambda p: (-height(p), p))
    assert paths, 'there are no notebooks'
    each = parallel(test_notebook, paths, n_workers=2, skip_flags=cfg.tst_flags.split(), basepath=ROOT, pause=.01)
    results.extend(result for result, _ in each)
    seconds_of.update({str(p.relative_to(ROOT)): seconds for p, (_, seconds) in zip(paths, each)})


def in_browser(*command):
    "Run a test that needs a real browser; without one it is skipped"
    sh(sys.executable, *command)


def install_nbdev3(target):
    "The newest nbdev 3, with all it needs, in a folder of its own"
    try: sh(sys.executable, '-m', 'pip', 'install', '--quiet', '--target', target, 'nbdev>=3,<4')
    except AssertionError as e: raise Skipped(f"pip can't get it: {str(e).strip().splitlines()[-1]}") from e


def newest_nbdev(copy, before, nbdev3):
    "nbdev 3 works in a checkout, and changes nothing"
    if not (nbdev3/'bin/nbdev-export').exists(): raise Skipped('nbdev 3 is not installed')
    def run(command, *args): return sh(sys.executable, nbdev3/'bin'/command, *args, cwd=copy, path=[nbdev3, copy])
    for command in ('nbdev-clean', 'nbdev-export'):
        run(command)
        same(copy, before, command, 'nbs', 'textseg', 'pyproject.toml', 'settings.ini')
    for page in NBDEV3_PAGES: run('nbdev-test', copy/'nbs'/page)


def build_wheel(copy, site):
    "Build the sdist, from it the wheel, and install that into `site`"
    sh(sys.executable, '-m', 'build', '--outdir', copy/'dist', copy)
    wheel, = (copy/'dist').glob('*.whl')
    sh(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site, wheel)


def complete(copy, site):
    "The installed package has all modules and weights of the checkout"
    files = lambda root: {str(p.relative_to(root)) for p in (root/'textseg').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    missing = files(copy) - files(site)
    assert not missing, f'not in the wheel: {sorted(missing)}'
    weights = list((site/'textseg/weights').rglob('*.safetensors'))
    assert weights, 'textseg/weights has no *.safetensors: the embedded model would have to be trained first'


def modules(root):
    "Names of all modules of the package under `root`"
    parts = sorted(p.relative_to(root).with_suffix('').parts for p in (root/'textseg').rglob('*.py'))
    return ['.'.join(p[:-1] if p[-1]=='__init__' else p) for p in parts]


IMPORT_ALL = """
import importlib, sys, fastcore
site, generation, *names = sys.argv[1:]
for name in names:
    module = importlib.import_module(name)
    assert module.__file__.startswith(site), f'{name} comes from {module.__file__}'
assert fastcore.__version__.startswith(generation + '.'), f'fastcore {fastcore.__version__} instead of {generation}'
"""


def imports(site, generation, *path):
    "Every module imports from where it was installed, and nothing from the checkout; fastcore is of a given generation"
    python(IMPORT_ALL, site, generation, *modules(site), cwd=site, path=[*path, site])


def commands(site):
    "Every console command leads to a function"
    dist, = (d for d in distributions(path=[str(site)]) if d.metadata['Name']=='textseg')
    names = [e for e in dist.entry_points if e.group=='console_scripts']
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini')
    assert len(names)==len(config['DEFAULT']['console_scripts'].split()), f'the wheel has only {names}'
    broken = [e.name for e in names if not (site/e.module.replace('.', '/')).with_suffix('.py').exists()]
    assert not broken, f'no module for {broken}'
    python('; '.join(f'from {e.module} import {e.attr}' for e in names), cwd=site, path=[site])


def helps(site, command, *path):
    "A command tells what it can do"
    out = sh(sys.executable, site/'bin'/command, '--help', cwd=site, path=[*path, site])
    assert 'usage:' in out, out


def spellings(site, command, option, *path):
    "An option is read with dashes and with underscores between its words"
    for name in (option, option.replace('-', '_')):
        res = subprocess.run([sys.executable, site/'bin'/command, f'--{name}', '1'], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, [*path, site]))}, cwd=site)
        assert '--data is needed' in res.stderr, f'{command} --{name} 1: {res.stderr}'


def install_fastcore2(target):
    "What users may have, and nbdev 2.4 may not"
    sh(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', target, 'fastcore>=2,<3')


def summary():
    "The last line"
    skipped = results.count('skipped')
    return f"{results.count('passed')} passed, {results.count('FAILED')} failed" + f', {skipped} skipped'*bool(skipped)


def main():
    with tempfile.TemporaryDirectory() as d:
        before, copy, site, two, nbdev3 = (Path(d)/n for n in ('before', 'copy', 'site', 'fastcore2', 'nbdev3'))
        copy_checkout(before)
        fresh(copy, before)
        check('nbdev_clean and nbdev_export change nothing', exported, copy, before)
        check('README.md and nbs/sidebar.yml are current', committed_pages, copy, before)
        check('all notebooks could be tried', notebooks)
        check('documentation builds', documented, copy)
        check('every page of the site in a browser', in_browser, '.ci/docs_test.py', copy/'_docs')
        check('the page to click in a browser', in_browser, '.ci/app_test.py')
        fresh(copy, before)
        check('nbdev 3 installs', install_nbdev3, nbdev3)
        check('nbdev 3 works, and changes nothing', newest_nbdev, copy, before, nbdev3)
        fresh(copy, before)
        check('sdist and wheel build', build_wheel, copy, site)
        check('the wheel is complete, with weights', complete, before, site)
        check('all modules import from the wheel', imports, site, '1')
        check('console commands exist', commands, site)
        check('a command has --help', helps, site, 'textseg_demo')
        check('an option with dashes or underscores', spellings, site, 'textseg_train', 'save-every')
        if sys.version_info >= (3, 11):  # so says fastcore 2
            check('fastcore 2 installs', install_fastcore2, two)
            check('all modules import under fastcore 2', imports, site, '2', two)
            check('a command has --help under fastcore 2', helps, site, 'textseg_demo', two)
            check('an option with dashes or underscores under fastcore 2', spellings, site, 'textseg_train', 'save-every', two)
    slowest = sorted(seconds_of.items(), key=lambda item: -item[1])
    print('longest:', ', '.join(f'{name} {seconds:.0f} s' for name, seconds in slowest[:12]), flush=True)
    print(summary(), flush=True)
    sys.exit('FAILED' in results)


if __name__=='__main__':
    os.chdir(ROOT)
    main()
