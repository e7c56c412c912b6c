-- A pandoc reader for the JSON that kdutils/export.py makes of executed notebooks (one chapter per notebook):
--   {target, meta, chapters: [{prefix, folder, blocks: [{kind, ...}]}]}
-- Every cell is parsed by itself, so an unclosed fence in one cannot swallow the next.

local MARKDOWN = "markdown+raw_tex+autolink_bare_uris+lists_without_preceding_blankline"
  .. "-yaml_metadata_block-pandoc_title_block-citations-example_lists-fancy_lists-implicit_figures-subscript-superscript"
  .. "-simple_tables-multiline_tables-grid_tables-table_captions-blank_before_header-blank_before_blockquote"
local HTML = "html+tex_math_single_backslash"
local MARKDOWN_FIELDS = { title = true, subtitle = true, notice = true, summary = true, caption = true }
local MATH_ENVIRONMENTS = { align = "aligned", gather = "gathered", equation = false }
local NUMBER = "^[%+%-−–]?%s?%.?%d"
local SHORT_LABEL, LONG_HEADING = 24, 11  -- characters
local CHARACTERS_PER_LINE = 96  -- of a PDF page, in the type size of tables

local target
local numbers = { Figure = 0, Table = 0 }

local function raw(text) return pandoc.RawBlock(target, text) end

local function quoted(text)  -- a Typst string
  return '"' .. text:gsub("\\", "\\\\"):gsub('"', '\\"'):gsub("%s+", " ") .. '"'
end

-- Mathematics -------------------------------------------------------------------------------------------------------

local function environment(tex)  -- \begin{align} .. \end{align} outside dollars is display mathematics in Jupyter
  local name, body = tex:match("^%s*\\begin{(%a+)%*?}(.-)\\end{%a+%*?}%s*$")
  local inner = MATH_ENVIRONMENTS[name]
  if inner == nil then return nil end
  if inner then body = "\\begin{" .. inner .. "}" .. body .. "\\end{" .. inner .. "}" end
  return pandoc.Math("DisplayMath", body)
end

local function formula(el)
  el.text = el.text:gsub("\\tag%s*(%b{})", function(tag) return "\\qquad (" .. tag:sub(2, -2) .. ")" end)
  if target == "typst" then  -- pandoc makes \! six times too wide and cannot size \Big\|; Typst sizes delimiters itself
    el.text = el.text:gsub("\\!", "")
    el.text = el.text:gsub("\\[bB]igg?[lrm]?%s*([%(%)%[%]|\\%./])", "%1")
  end
  return el
end

-- Images and links: nothing points at the network, and every image travels inside the page ---------------------------

local function image(folder)
  return function(el)
    if el.src:match("^data:") then return nil end
    if el.src:match("^%a[%w+.-]*:") or el.src:match("^//") then
      return pandoc.Link(#el.caption > 0 and el.caption or el.src, el.src)
    end
    local found, mime, bytes = pcall(pandoc.mediabag.fetch, pandoc.path.join { folder, el.src })
    if not (found and bytes) then return pandoc.Emph(#el.caption > 0 and el.caption or el.src) end
    el.src = pandoc.mediabag.make_data_uri(mime, bytes)
    return el
  end
end

local function link(prefix, known)  -- a link that leads nowhere in this document is set as plain text
  return function(el)
    local anchor = el.target:match("^#(.*)")
    if anchor then
      el.target = "#" .. prefix .. anchor
      return known[prefix .. anchor] and el or el.content
    elseif not el.target:match("^%a[%w+.-]*:") then
      if target == "typst" then return el.content end
      el.target = el.target:gsub("%.ipynb$", ".html"):gsub("%.ipynb#", ".html#")
      return el
    end
  end
end

local function identify(prefix, known)  -- identifiers are unique throughout the document
  return function(el)
    if el.identifier == "" then return nil end
    local id, count = prefix .. el.identifier, 1
    while known[id] do id, count = prefix .. el.identifier .. "-" .. count, count + 1 end
    known[id], el.identifier = true, id
    return el
  end
end

-- Tables --------------------------------------------------------------------------------------------------------------

local function each_cell(tbl, visit)  -- visit(cell, column, is_head)
  local function row_of(row, is_head)
    for column, cell in ipairs(row.cells) do visit(cell, column, is_head) end
  end
  for _, row in ipairs(tbl.head.rows) do row_of(row, true) end
  for _, body in ipairs(tbl.bodies) do for _, row in ipairs(body.body) do row_of(row, false) end end
end

local function tighten(tbl)  -- "91.02 ± 0.30" and a short label stay on one line
  local fixed = { Space = function() return pandoc.Str "\u{a0}" end }
  each_cell(tbl, function(cell, column, is_head)
    local text = pandoc.utils.stringify(cell.contents)
    local is_label = column == 1 and not is_head and pandoc.text.len(text) <= SHORT_LABEL
    if is_label or text:match(NUMBER) then cell.contents = cell.contents:walk(fixed) end
  end)
end

local function break_headings(tbl)  -- a long heading over numbers takes two lines
  each_cell(tbl, function(cell, _, is_head)
    local line = is_head and cell.contents[1] and cell.contents[1].content
    if not line or pandoc.text.len(pandoc.utils.stringify(line)) < LONG_HEADING then return end
    for i = #line // 2 + 1, #line do
      if line[i].t == "Space" then
        line[i] = pandoc.LineBreak()
        return
      end
    end
  end)
end

local function can_wrap(tbl)  -- whether a page is wide enough once the cells' lines are broken between words
  local widths, total = {}, 0
  each_cell(tbl, function(cell, column)
    for word in pandoc.utils.stringify(cell.contents):gmatch("%S+") do
      widths[column] = math.max(widths[column] or 0, pandoc.text.len(word) + 2)
    end
  end)
  for _, width in pairs(widths) do total = total + width end
  return total <= CHARACTERS_PER_LINE
end

local function align(tbl)  -- where the author says nothing: labels left, numbers right; columns as wide as they need
  local first = tbl.bodies[1] and tbl.bodies[1].body[1]
  for column, spec in ipairs(tbl.colspecs) do
    local cell = first and first.cells[column]
    local is_number = cell and pandoc.utils.stringify(cell.contents):match(NUMBER)
    local default = is_number and pandoc.AlignRight or pandoc.AlignLeft
    tbl.colspecs[column] = { spec[1] == pandoc.AlignDefault and default or spec[1], nil }
  end
end

local function format_table(tbl)
  align(tbl)
  tighten(tbl)
  if target ~= "typst" then return { raw '<div class="scroll" tabindex="0">', tbl, raw "</div>" } end
  tbl.classes:insert("typst:no-figure")  -- only captioned tables are numbered
  if can_wrap(tbl) then return { raw "#wrap[", tbl, raw "]" } end
  break_headings(tbl)
  return { raw "#fit[", tbl, raw "]" }
end

-- Blocks --------------------------------------------------------------------------------------------------------------

local function has_raw_html(doc)
  local found = false
  local function look(el) found = found or el.format == "html" end
  doc:walk { RawBlock = look, RawInline = look }
  return found
end

local function read_markdown(text)
  local doc = pandoc.read(text, MARKDOWN)
  if has_raw_html(doc) then  -- its tags become native elements; scripts and styles fall away
    doc = pandoc.read(pandoc.write(doc, "html", { html_math_method = "mathjax", highlight_method = "none" }), HTML)
  end
  return doc.blocks
end

local function read_inlines(text) return pandoc.utils.blocks_to_inlines(read_markdown(text)) end

local function captioned(word, block, id, body)
  numbers[word] = numbers[word] + 1
  local caption = pandoc.Plain(read_inlines(block.caption))
  if target == "typst" then
    local kind = word == "Figure" and "image" or "table"
    local alt = block.alt and "alt: " .. quoted(block.alt) .. ", " or ""  -- a table is read out cell by cell
    local open = "#figure(kind: " .. kind .. ", supplement: [" .. word .. "], " .. alt .. "caption: ["
    return { raw(open), caption, raw "])[", body, raw("] <" .. id .. ">") }
  end
  caption.content:insert(1, pandoc.Span(word .. " " .. numbers[word] .. ".", { class = "number" }))
  caption.content:insert(2, pandoc.Space())
  local open = raw('<figure class="' .. word:lower() .. '" id="' .. id .. '">')
  if word == "Figure" then
    return { open, body, raw "<figcaption>", caption, raw "</figcaption></figure>" }
  end
  return { open, raw "<figcaption>", caption, raw "</figcaption>", body, raw "</figure>" }
end

local function picture(block)
  local el = pandoc.Plain { pandoc.Image({ pandoc.Str(block.alt) }, block.source) }
  return target == "typst" and pandoc.Div({ raw "#bound[", el, raw "]" }) or pandoc.Div({ el }, { class = "picture" })
end

local readers = {
  markdown = function(block) return read_markdown(block.text) end,
  html = function(block) return pandoc.read(block.text, HTML).blocks end,
  image = function(block) return { picture(block) } end,
  figure = function(block, id) return captioned("Figure", block, id, picture(block)) end,
  table = function(block, id) return captioned("Table", block, id, pandoc.Div(read_markdown(block.text))) end,
}

function readers.code(block)
  local code = pandoc.CodeBlock(block.text, { class = block.language })
  if target == "typst" then return { code } end
  local open = block.open and '<details class="code" open>' or '<details class="code">'
  return { raw(open .. "<summary>" .. block.label .. "</summary>"), code, raw "</details>" }
end

function readers.text(block)  -- what a cell printed, or the traceback of its error
  local text = pandoc.CodeBlock(block.text, { class = block.class })
  if target == "typst" then return { raw("#" .. block.class .. "["), text, raw "]" } end
  return { text }
end

local function read_chapter(chapter)
  local blocks, known = pandoc.Blocks {}, {}
  for _, block in ipairs(chapter.blocks) do
    local id = chapter.prefix .. (block.name or ""):gsub("[^%w_-]", "-")
    if block.name then known[id] = true end
    blocks:extend(readers[block.kind](block, id))
  end
  local tex = function(el) return el.format:match("tex") and environment(el.text) or nil end
  local tex_block = function(el) local found = tex(el); return found and pandoc.Para { found } end
  local named = identify(chapter.prefix, known)
  return blocks
    :walk { RawInline = tex, RawBlock = tex_block, Image = image(chapter.folder) }
    :walk { Header = named, Div = named, Span = named, Math = formula, Table = format_table }
    :walk { Link = link(chapter.prefix, known) }
end

local function metadata(value, field)
  if type(value) == "string" then
    if not MARKDOWN_FIELDS[field] then return pandoc.MetaString(value) end
    local plain = { Link = function(el) return el.content end, Math = formula }  -- titles are links already
    return pandoc.MetaInlines(read_inlines(value):walk(plain))
  elseif type(value) ~= "table" then
    return value
  end
  local result = {}
  for key, item in pairs(value) do result[key] = metadata(item, key) end
  return result
end

function Reader(input)
  local document = pandoc.json.decode(tostring(input), false)
  target = document.target
  local doc = pandoc.Pandoc(pandoc.Blocks {}, pandoc.Meta(metadata(document.meta)))
  for _, chapter in ipairs(document.chapters) do doc.blocks:extend(read_chapter(chapter)) end
  doc.meta.pagetitle = doc.meta.title and pandoc.utils.stringify(doc.meta.title)
  return doc
end
