"""Build the site in `_docs/`, and README.md, from the notebooks.

With Quarto on the PATH `nbdev_docs` builds the site. Without it the same processed notebooks go through Sphinx: same pages, same
names, same links, a plainer look. `docs.py --readme` writes only the files that are committed: README.md, nbs/nbdev.yml, nbs/sidebar.yml.
"""
import json, os, re, shutil, subprocess, sys, tempfile
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import yaml
from execnb.nbio import read_nb
from fastcore.basics import AttrDict
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html, nbglob
from nbdev.processors import FilterDefaults
from nbdev.quarto import nbdev_docs, refresh_quarto_yml
from nbdev.serve import proc_nbs


# The pages: which there are, in which order, in which group

def groups():
    "Sections in the order of readers, each with its pages, as nbs/floors.yml names them; none that is empty"
    cfg = get_config()
    there = sorted(Path(p).relative_to(cfg.nbs_path) for p in nbglob(cfg.nbs_path, as_path=True))
    sections = yaml.safe_load((cfg.nbs_path/'floors.yml').read_text())['sections']
    def fits(page, pattern): return page.parent==Path(pattern).parent and fnmatch(page.name, Path(pattern).name)
    res = {section: [p for pattern in patterns for p in there if fits(p, pattern)] for section, patterns in sections.items()}
    listed = Counter(p for ps in res.values() for p in ps)
    wrong = [str(p) for p in there if listed[p]!=1 and p.name!='index.ipynb']
    if wrong: raise SystemExit(f"nbs/floors.yml must give each page to one section; look for {', '.join(wrong)}")
    return {section: ps for section, ps in res.items() if ps}


def pages():
    "Notebooks relative to `nbs/`, without the index, in reading order"
    return [p for ps in groups().values() for p in ps]


def address(page):
    "Where the site has a page: `methods/20_sam.ipynb` is `methods/sam.html`"
    return str(_nbpath2html(Path(page)))


def sidebar():
    "nbs/sidebar.yml, which Quarto reads"
    contents = ['index.ipynb', *({'section': c, 'contents': [str(p) for p in ps]} for c, ps in groups().items())]
    return yaml.safe_dump({'website': {'sidebar': {'contents': contents}}}, sort_keys=False)


# From a processed notebook to plain Markdown: Quarto's own syntax taken out, links that work anywhere

def relink(text, page, root):
    "Point links at notebooks and at our own site to `root`, the site's address as seen from `page`"
    cfg = get_config()
    site = cfg['doc_host'] + cfg['doc_baseurl'] + '/'
    def link(match):
        target, mark, anchor = match[1].partition('#')
        if target.startswith(site): return f']({root}{match[1].removeprefix(site)})'
        if not target.endswith('.ipynb') or ':' in target: return match[0]
        return f"]({root}{address(os.path.normpath(page.parent/target))}{mark}{anchor})"
    text = re.sub(rf'\[(\[[^]]*\]\({site}[^()\s]+\))\]\([^()\s]+\)', r'\1', text)      # nbdev links names of ours in a link's own text, too
    text = re.sub(rf'\[([^]]*)\]\({site}[^()\s#]*#_[^()\s]*\)', r'\1', text)          # a private name has no place on its page
    text = re.sub(r'\]\(([^()\s]+)\)', link, text)
    return re.sub(r'\[([^]]*)\]\(([^()\s]+)\)\{target="_blank"[^}]*\}', r'<a class="doc-source" href="\2">\1</a>', text)


def options(source):
    "Quarto's `#| key: value` lines of a code cell as a dict, and the code without them"
    return dict(re.findall(r'^#\|\s*([\w-]+):\s*(.*)$', source, re.M)), re.sub(r'^#\|.*\n?', '', source, flags=re.M)


def shown_symbol(cell):
    "The Markdown that `show_doc` made, with an anchor, or None if the cell is not such a one"
    made = [''.join(o['data']['text/markdown']) for o in cell.get('outputs', []) if 'text/markdown' in o.get('data', {})]
    if not made or 'show_doc(' not in cell.source: return None
    anchor = lambda m: f'<span id="{m[2].lower()}" class="doc-symbol"></span>\n\n{m[0]}'
    text = re.sub(r'^(#+) (\S+)$', anchor, made[0].removeprefix('---\n\n'), count=1, flags=re.M)
    return re.sub(r'```python\ndef \S+\(\n    \*args, \*\*kwargs\n\):\n```\n\n', '', text)  # all that is known of a class without `__init__`


def front(cell):
    "Title and description, which processing has put into a raw cell"
    facts = yaml.safe_load(cell.source.strip().strip('-'))
    return f"# {facts.get('title', '')}\n\n{facts.get('description', '')}".strip()


def plain_cells(nb):
    "Cells of a processed notebook as `(markdown, None)` or `(code, cell)`, front matter and documented symbols made Markdown"
    for cell in nb.cells:
        if cell.cell_type=='raw': yield front(cell), None
        elif cell.cell_type=='markdown': yield cell.source, None
        elif (symbol := shown_symbol(cell)): yield symbol, None
        elif options(cell.source)[0].get('include')!='false': yield options(cell.source)[1], cell


def processed(page):
    "A notebook as nbdev shows it, by running what its documentation needs"
    nb = read_nb(get_config().nbs_path/page)
    FilterDefaults()(nb)
    return nb


# README.md, from index.ipynb

def output_text(output):
    "An output of a code cell as Markdown; pictures are left out, there shall be no files beside README.md"
    data = output.get('data', {})
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    if {'image/png', 'image/jpeg'} & data.keys(): return ''
    text = ''.join(output.get('text', '') or data.get('text/plain', ''))
    return '\n'.join(f'    {line}'.rstrip() for line in text.rstrip('\n').splitlines())


def readme():
    "The text of README.md"
    cfg, index = get_config(), Path('index.ipynb')
    parts = []
    for text, cell in plain_cells(processed(index)):
        if not cell: parts.append(text)
        elif options(cell.source)[0].get('echo')!='false' and text.strip(): parts.append(f'```python\n{text.strip()}\n```')
        if cell: parts += [output_text(o) for o in cell.get('outputs', [])]
    text = '\n\n'.join(p.strip('\n') for p in parts if p.strip())
    text = text.replace('](images/', f'](./{cfg.nbs_path.name}/images/')  # pictures lie beside the notebooks
    return relink(text, index, cfg['doc_host'] + cfg['doc_baseurl'] + '/') + '\n'


def write_committed():
    "Write the files made from notebooks and settings that are committed"
    cfg = get_config()
    refresh_quarto_yml()
    (cfg.nbs_path/'sidebar.yml').write_text(sidebar())
    if (cfg.nbs_path/'index.ipynb').exists(): (cfg.config_path/'README.md').write_text(readme())


# The site by Sphinx

CONF = """
project, author, copyright = {title!r}, {author!r}, {copyright!r}
extensions = ['myst_nb', 'sphinx.ext.githubpages']
exclude_patterns = ['_*']
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'   # tables in outputs
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline', 'attrs_block']
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type']
html_theme, html_title, html_css_files, html_static_path = 'sphinx_book_theme', {title!r}, ['styles.css'], ['_static']
html_context = dict(default_mode='auto')
html_copy_source, html_show_sourcelink = False, False
html_math_renderer = 'mathml'
html_theme_options = dict(repository_url={git_url!r}, use_repository_button=True, use_download_button=False, show_toc_level=2, navbar_persistent=[])

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

def as_mathml(display):   # browsers draw MathML themselves: no script from elsewhere, so formulas are there offline
    def visit(self, node):
        self.body.append(f'<span class="formula-{{display}}">{{convert(node.astext(), display=display)}}</span>')
        raise SkipNode
    return visit, None

def setup(app): app.add_html_math_renderer('mathml', as_mathml('inline'), as_mathml('block'))
"""


def sphinx_cell(text, cell, page):
    "One cell for Sphinx: Markdown with relative links, or code with its outputs"
    root = '../'*(len(page.parts)-1)
    if not cell: return dict(cell_type='markdown', metadata={}, source=html_links(relink(text, page, root)))
    outputs = [dict(o) for o in cell.get('outputs', [])]
    for o in outputs:
        data = o.get('data', {})
        if 'text/markdown' in data: data['text/markdown'] = html_links(relink(''.join(data['text/markdown']), page, root))
        if 'image/png' in data: data.pop('image/jpeg', None)
    opts = options(cell.source)[0]
    tags = ['remove-input']*(opts.get('echo')=='false') + ['remove-output']*(opts.get('output')=='false') + ['hide-input']*('code-fold' in opts)
    return dict(cell_type='code', metadata={'tags': tags}, source=text, outputs=outputs, execution_count=None)


def html_links(text):
    "Links between our pages as HTML, because Sphinx looks for sources behind Markdown ones, and ours are named otherwise"
    link = lambda m: f'<a href="{m[2]}">' + re.sub(r'`([^`]*)`', r'<code>\1</code>', m[1]) + '</a>'
    return re.sub(r'(?<!!)\[([^]]*)\]\(((?:[^():\s#]*\.html)?(?:#[^()\s]*)?)\)', link, text)


def toctrees():
    "The navigation, a Markdown cell that ends the index"
    name = lambda page: address(page).removesuffix('.html')
    tree = lambda c, ps: '\n'.join(['```{toctree}', ':hidden:', f':caption: {c}', '', *map(name, ps), '```'])
    return dict(cell_type='markdown', metadata={}, source='\n\n'.join(tree(c, ps) for c, ps in groups().items()))


def write_page(nb, page, target):
    "Write a processed notebook as one that Sphinx reads, under the name its page will have"
    cells = [sphinx_cell(text, cell, page) for text, cell in plain_cells(nb)]
    if page.stem=='index': cells.append(toctrees())
    for i, cell in enumerate(cells): cell['id'] = f'cell-{i}'
    language = {'name': 'python', 'pygments_lexer': 'ipython3'}
    path = target/address(page).replace('.html', '.ipynb')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=cells, metadata={'language_info': language}, nbformat=4, nbformat_minor=5)))


def sphinx_docs():
    "Build `_docs/` from `_proc/`"
    cfg = get_config()
    cache = proc_nbs(n_workers=2, force=True)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    with tempfile.TemporaryDirectory() as d:
        source = Path(d)/'source'
        shutil.copytree(cache, source, ignore=shutil.ignore_patterns('*.ipynb', '*.yml'))
        (source/'_static').mkdir()
        shutil.copy(cfg.nbs_path/'styles.css', source/'_static')
        (source/'conf.py').write_text(CONF.format(**{k: cfg[k] for k in ('title', 'author', 'copyright', 'git_url')}))
        for page in [Path('index.ipynb'), *pages()]:
            nb = read_nb(cache/page) if (cache/page).exists() else AttrDict(cells=[])  # a house under construction has no index yet
            write_page(nb, page, source)
        subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-b', 'html', '-d', f'{d}/doctrees', source, cfg.doc_path], check=True)
        shutil.rmtree(cfg.doc_path.parent/'jupyter_execute', ignore_errors=True)  # myst-nb leaves it beside the site


def main():
    write_committed()
    if '--readme' in sys.argv: return
    if shutil.which('quarto'):
        nbdev_docs.__wrapped__()
        write_committed()  # Quarto wraps README.md otherwise than we do, and one of the two has to win
    else: sphinx_docs()
    print(f'The site is in {get_config().doc_path}')


if __name__=='__main__': main()  # guarded, because processing spawns workers that import this file
