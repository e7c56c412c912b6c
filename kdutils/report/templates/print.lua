-- Sets the formulas of an exporter's HTML (code of the class "math", with its dollars), and what Typst needs besides.

-- What pandoc does not know of MathJax, in what it knows.
local MACROS = [[\newcommand{\tag}[1]{\qquad (#1)}\newcommand{\notag}{}\newcommand{\nonumber}{}\newcommand{\label}[1]{}
\newcommand{\mathbbm}[1]{\mathbb{#1}}\newcommand{\mathds}[1]{\mathbb{#1}}\newcommand{\textcolor}[2]{#2}]]
local all = MACROS  -- with those of the document; a formula may stand before them, in the contents

local function body_of(el)
  local tex = el.text:gsub("^%$+", ""):gsub("%$+$", ""):gsub("^\\\\[%[%(](.*)\\\\[%]%)]$", "%1")
  return (tex:gsub("\\g?def%s*(\\%a+)([#%d]*)%s*(%b{})", function(name, places, body)
    return "\\newcommand{" .. name .. "}[" .. #places // 2 .. "]" .. body
  end))
end

local function macros_of(tex)
  local found = ""
  for command, name, arguments, body in tex:gmatch("(\\%a+%*?)%s*({?\\%a+}?)%s*([^{}\\]*)(%b{})") do
    local defines = command:match("newcommand") or command:match("providecommand") or command:match("^\\DeclareMath")
    if defines then found = found .. command .. name .. arguments .. body end
  end
  return found
end

local function set(tex, kind)  -- nil where pandoc cannot
  if FORMAT == "typst" then  -- pandoc makes \! six times too wide and cannot size \Big\|; Typst sizes delimiters itself
    tex = tex:gsub("\\!", ""):gsub("\\[bB]igg?[lrm]?%s*([%(%)%[%]|\\%./])", "%1")
  end
  local doc = pandoc.Pandoc { pandoc.Plain { pandoc.Math(kind, tex) } }
  local made = pandoc.write(doc, FORMAT, { html_math_method = "mathml", wrap_text = "none" })
  if FORMAT == "typst" then return made:match("^%$.*%$") end
  made = made:match("<math.*</math>")
  return made and made:gsub("<annotation.-</annotation>", "")
end

local function formula(macros)
  return function(el)
    if el.classes[1] ~= "math" then return nil end
    local kind = el.text:match("^%$%$") or el.text:match("^\\\\%[") or el.text:match("^\\begin")
    local tex = body_of(el)
    local made
    for _, known in ipairs { macros, all } do
      made = made or set(known .. tex, kind and "DisplayMath" or "InlineMath")
    end
    macros = macros .. macros_of(tex)
    return made and pandoc.RawInline(FORMAT, made) or pandoc.Code(el.text)
  end
end

local function picture(el)
  local alt = pandoc.utils.stringify(el.caption):gsub("[\\\"]", "\\%0")
  local number, unit = (el.attributes.width or ""):match("^([%d.]+)(%%?)$")
  local width = not number and "auto" or unit == "%" and number .. "%" or tonumber(number) * .75 .. "pt"
  return pandoc.RawInline("typst", ('#picture("%s", "%s", %s);'):format(el.src, alt, width))
end

local function aligned(tbl)  -- numbers of a data frame stand right, as in Jupyter
  if not tbl.classes:includes("dataframe") then return nil end
  for column, spec in ipairs(tbl.colspecs) do
    if column > tbl.bodies[1].row_head_columns then tbl.colspecs[column] = { pandoc.AlignRight, spec[2] } end
  end
  return tbl
end

function Pandoc(doc)
  doc:walk { Code = function(el) if el.classes[1] == "math" then all = all .. macros_of(body_of(el)) end end }
  local typst = FORMAT == "typst"
  return doc:walk { Code = formula(MACROS), Image = typst and picture or nil, Table = typst and aligned or nil }
end
