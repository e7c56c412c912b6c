-- Sets the formulas of an exporter's HTML (code of the class "math", with its dollars), and what Typst needs besides.

-- What MathJax knows and pandoc does not, in what pandoc knows.
local MACROS = [[\newcommand{\tag}[1]{\qquad (#1)}\newcommand{\notag}{}\newcommand{\nonumber}{}\newcommand{\label}[1]{}
\newcommand{\mathbbm}[1]{\mathbb{#1}}\newcommand{\mathds}[1]{\mathbb{#1}}\newcommand{\textcolor}[2]{#2}
\newcommand{\cfrac}[2]{\frac{#1}{#2}}\newcommand{\dbinom}[2]{\binom{#1}{#2}}\newcommand{\tbinom}[2]{\binom{#1}{#2}}
\newcommand{\smash}[1]{#1}\newcommand{\mathstrut}{}\newcommand{\href}[2]{#2}\newcommand{\eqref}[1]{\text{(#1)}}
\DeclareMathOperator*{\injlim}{inj\,lim}\DeclareMathOperator*{\projlim}{proj\,lim}\newcommand{\ref}[1]{\text{#1}}
\newcommand{\varlimsup}{\overline{\lim}}\newcommand{\varliminf}{\underline{\lim}}\newcommand{\thicksim}{\sim}
\newcommand{\thickapprox}{\approx}\newcommand{\shortmid}{\mid}\newcommand{\shortparallel}{\parallel}
\newcommand{\nshortmid}{\nmid}\newcommand{\nshortparallel}{\nparallel}\newcommand{\doublecup}{\Cup}
\newcommand{\doublecap}{\Cap}\newcommand{\nleqq}{\not\leqq}\newcommand{\ngeqq}{\not\geqq}\newcommand{\lvertneqq}{\lneqq}
\newcommand{\gvertneqq}{\gneqq}\newcommand{\nsubseteqq}{\not\subseteqq}\newcommand{\nsupseteqq}{\not\supseteqq}
\newcommand{\varsupsetneq}{\supsetneq}\newcommand{\diagup}{/}\newcommand{\diagdown}{\backslash}
\newcommand{\surd}{\sqrt{\,}}\newcommand{\require}[1]{}\newcommand{\vphantom}[1]{}\newcommand{\hbox}[1]{\text{#1}}
\newcommand{\small}{}\newcommand{\large}{}\newcommand{\Large}{}\newcommand{\LARGE}{}\newcommand{\huge}{}]]
local FONTS = { bf = true, cal = true, it = true, rm = true, sf = true, tt = true }  -- {\rm x} of old is \mathrm{x}
local function parts_of(el)  -- the TeX without dollars and definitions, and the definitions
  local tex = el.text:gsub("^%$+", ""):gsub("%$+$", ""):gsub("^\\\\[%[%(](.*)\\\\[%]%)]$", "%1")
  local defined = ""
  tex = tex:gsub("{\\(%l+)%s+", function(font) return FONTS[font] and "\\math" .. font .. "{" end)
  tex = tex:gsub("{[dr]cases}", "{cases}"):gsub("\\g?def%s*(\\%a+)([#%d]*)%s*(%b{})", function(name, places, body)
    return "\\newcommand{" .. name .. "}[" .. #places // 2 .. "]" .. body
  end):gsub("(\\%a+%*?)%s*({?\\%a+}?)%s*([^{}\\]*)(%b{})", function(command, name, arguments, body)
    if not (command:match("newcommand") or command:match("provide") or command:match("^\\DeclareM")) then return end
    defined = defined .. command .. name .. arguments .. body
    return ""
  end)
  return tex, defined
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

local macros = MACROS  -- and those of the formulas so far

local function formula(el)
  if el.classes[1] ~= "math" then return nil end
  local is_display = el.text:match("^%$%$") or el.text:match("^\\\\%[") or el.text:match("^\\begin")
  local tex, defined = parts_of(el)
  macros = macros .. defined
  local made = set(macros .. tex, is_display and "DisplayMath" or "InlineMath")
  if is_display and not made then made = set(macros .. "\\begin{aligned}" .. tex .. "\\end{aligned}", "DisplayMath") end
  return made and pandoc.RawInline(FORMAT, made) or pandoc.Code(el.text)
end

local function picture(el)
  local alt = pandoc.utils.stringify(el.caption):gsub("[\\\"]", "\\%0")
  local number, unit = (el.attributes.width or ""):match("^([%d.]+)(%%?)$")
  local width = not number and "auto" or unit == "%" and number .. "%" or tonumber(number) * .75 .. "pt"
  return pandoc.RawInline("typst", ('#picture("%s", "%s", %s);'):format(el.src, alt, width))
end

return { { Code = formula, Image = FORMAT == "typst" and picture or nil } }
