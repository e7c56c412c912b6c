-- Sets the formulas of an exporter's HTML (code of the class "math", with its dollars), and what Typst needs besides.

-- Macros that MathJax knows and pandoc does not, defined by what pandoc knows.
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
\newcommand{\hphantom}[1]{\phantom{#1}}
\newcommand{\small}{}\newcommand{\large}{}\newcommand{\Large}{}\newcommand{\LARGE}{}\newcommand{\huge}{}]]
local FONTS = { bf = true, cal = true, it = true, rm = true, sf = true, tt = true }  -- the old {\rm x} is \mathrm{x}
local function fractions(tex)  -- the old {a \over b} is \frac{a}{b}
  tex = tex:gsub("%b{}", function(group) return "{" .. fractions(group:sub(2, -2)) .. "}" end)
  for name, form in pairs { over = "\\frac{%s}{%s}", choose = "\\binom{%s}{%s}", atop = "\\substack{%s\\\\%s}" } do
    local above, below = tex:match("^(.*)\\" .. name .. "%f[%A](.*)$")
    if above then return form:format(above, below) end
  end
  return tex
end

local function parts_of(el)  -- the TeX without dollars and definitions, and the definitions
  local tex = el.text:gsub("^%$+", ""):gsub("%$+$", ""):gsub("^\\\\[%[%(](.*)\\\\[%]%)]$", "%1")
  local defined = ""
  tex = tex:gsub("{\\(%l+)%s+", function(font) return FONTS[font] and "\\math" .. font .. "{" end)
  tex = tex:gsub("{[dr]cases}", "{cases}"):gsub("(\\begin{%a+})%[[tcb]%]", "%1")
  tex = tex:gsub("\\g?def%s*(\\%a+)([#%d]*)%s*(%b{})", function(name, places, body)
    return "\\newcommand{" .. name .. "}[" .. #places // 2 .. "]" .. body
  end):gsub("(\\%a+%*?)%s*({?\\%a+}?)%s*([^{}\\]*)(%b{})", function(command, name, arguments, body)
    if not (command:match("newcommand") or command:match("provide") or command:match("^\\DeclareM")) then return end
    defined = defined .. command .. name .. arguments .. body
    return ""
  end)
  return fractions(tex), defined
end

-- In its text for Typst, pandoc runs together the columns of all but matrices with delimiters, and the lines of
-- environments within a formula. So these are given to it as a matrix whose first cell names the function of report.typ
-- that sets them.
local SET_BY = { cases = "cases", system = "system", array = "cells", matrix = "cells",
  smallmatrix = "cells", aligned = "lines", alignedat = "lines", split = "lines", gathered = "lines" }
local GAP = "\\qquad &"
local BETWEEN = { align = GAP, aligned = GAP, flalign = GAP, split = GAP, eqnarray = "" }  -- between column pairs

local FACES = { upright = true, bold = true, italic = true, mono = true, sans = true, serif = true }
local RELATIONS = {}  -- Typst would set their indices below, as for \underset
local NAMES = "tilde.op tilde.eq approx equiv prop in perp arrow.r arrow.l arrow.r.double divides parallel lt.eq gt.eq"
for name in NAMES:gmatch("%S+") do RELATIONS[name] = true end

local function paired(body, between)  -- puts `between` for every second & of a line
  local columns = 0
  return (body:gsub("\\?[\\&]", function(found)
    columns = found == "\\\\" and 0 or found == "&" and columns + 1 or columns
    if found == "&" and columns % 2 == 0 then return between end
  end))
end

local function laid_out(tex)
  local held = {}
  local function environments(tex, is_inner)
    tex = tex:gsub("\\left%s*\\{%s*\\begin{(%a+)}(.-)\\end{%1}%s*\\right%s*%.", function(name, body)
      local brace = ({ cells = "cases", lines = "system" })[SET_BY[name]]
      if not brace or body:find("\\end{" .. name, 1, true) then return end
      if name == "array" then body = body:gsub("^%s*%b{}", "") end
      return ("\\begin{%s}%s\\end{%s}"):format(brace, body, brace)
    end)
    return (tex:gsub("()\\begin{(%a+)(%*?)}(.-)\\end{%2%3}()", function(first, name, star, body, after)
      local is_whole = not is_inner and not (tex:sub(1, first - 1) .. tex:sub(after)):match("%S")
      local by, given, rest = SET_BY[name], body:match("^%s*(%b{})(.*)")
      if name == "array" and given then
        body = given == "{rcl}" and paired(rest, "") or rest
        if given:match("^{rc?l}$") then name, by = "aligned", "lines" end
      elseif name == "alignedat" and given and not is_whole then
        body = rest
      end
      body = environments(body, true)
      if BETWEEN[name] then body = paired(body, BETWEEN[name]) end
      if name == "vmatrix" then  -- pandoc gives it the bars of a Vmatrix
        body = "\\left|\\begin{matrix}" .. body .. "\\end{matrix}\\right|"
      elseif by and not (is_whole and by == "lines") then
        body = ("\\begin{Vmatrix}\\text{%s}&%s\\end{Vmatrix}"):format(by, body:gsub("\\hline", ""):gsub("\\\\%s*$", ""))
      else
        body = ("\\begin{%s}%s\\end{%s}"):format(name .. star, body, name .. star)
      end
      held[#held + 1] = body
      return "\1" .. #held .. "\1"
    end))
  end
  local number
  tex = environments(tex, false)
  repeat tex, number = tex:gsub("\1(%d+)\1", function(place) return held[tonumber(place)] end) until number == 0
  return tex
end

-- pandoc writes a fraction of single letters as a / b, even where it is part of another one or has an exponent.
local FRACTIONS = [[\newcommand{\frac}[2]{\binom{\text{frac}#1}{#2}}
\newcommand{\dfrac}[2]{\frac{#1}{#2}}\newcommand{\tfrac}[2]{\frac{#1}{#2}}]]

local function written(tex, kind)
  local doc = pandoc.Pandoc { pandoc.Plain { pandoc.Math(kind, tex) } }
  return pandoc.write(doc, FORMAT, { html_math_method = "mathml", wrap_text = "none" })
end

local function for_typst(macros, tex, kind)
  local mine = macros:sub(#MACROS + 1) .. tex
  local operators, limits
  for _, name in ipairs { "operatorname", "MathOperator", "\\underset", "\\mathop" } do
    operators = operators or mine:match(name)
    limits = limits or mine:match(name:match("^\\") and name or name .. "%*")
  end
  tex = laid_out(tex):gsub("\\underset%s*(%b{})%s*{\\%a+%s*(%b{})}", "\\mathop{\\mathrm%2}\\limits_%1")
  tex = tex:gsub("\\right%s*\\r?vert%f[%A]", "\\right|"):gsub("\\left%s*%.(.-)\\right%s*|", function(body)
    if not (body:find("\\left", 1, true) or body:find("\\right", 1, true)) then
      return "\\binom{\\text{lr}}{" .. body .. "\\text{bar}}"  -- a bar as high as what is before it
    end
  end)
  tex = tex:gsub("()(%b{})(%s*[%^_])", function(place, group, mark)  -- {x^2}^3 is not x^{2^3}
    if not group:find("[%^_]") or tex:sub(1, place - 1):match("[%a%]}%^_]%s*$") then return end
    return "\\binom{\\text{lr}}" .. group .. mark
  end)
  -- \| must not become a relation with exponents above it, nor \& the mark of a column
  tex = (FRACTIONS .. macros .. tex):gsub("\\(.)", { ["|"] = "\\Vert ", ["&"] = "＆" })
  tex = tex:gsub("\\!", "")  -- pandoc makes it six times too wide
  local function unsized(text) return (text:gsub("\\[bB]igg?[lrm]?%s*([%(%)%[%]|\\%./])", "%1")) end
  -- pandoc loses the size of \Big( and \Big\|; Typst sizes delimiters that form a pair
  local sized = tex:gsub("\\[bB]igg?l?%s*(\\?[%(%[{])", "\\left%1"):gsub("\\[bB]igg?r?%s*(\\?[%)%]}])", "\\right%1")
  local made = written(unsized(sized), kind):match("^%$.*%$") or written(unsized(tex), kind):match("^%$.*%$")
  if not made then return nil end
  made = made:gsub('binom%(upright%("frac"%) ?', "frac("):gsub('binom%(upright%("lr"%), ', "lr(")
  made = made:gsub('upright%("bar"%)%)', "|)"):gsub("#h%(0em%)", "thick")  -- pandoc makes nothing of \;
  made = made:gsub('"[^"]*"', function(text) return (text:gsub("＆", "&")) end):gsub("＆", "\\&")
  made = made:gsub('mat%(delim: "||", upright%("(%l+)"%), ', "%1("):gsub('delim: "||"', 'delim: "‖"')
  if operators and not made:find('\\"', 1, true) then
    made = made:gsub('(.-)("[^"]*")', function(before, name)
      if FACES[before:match("(%a+)%($")] or before:match("delim: $") then return end
      return ("%sop(%s%s)"):format(before, name, limits and ", limits: #true" or "")
    end)
  end
  if not (mine:match("\\%a+set") or mine:match("\\stackrel") or mine:match("\\x%a+arrow")) then
    made = made:gsub("([%a%.]+)([_^])", function(name, index)
      return RELATIONS[name] and ("scripts(%s)%s"):format(name, index)
    end)
  end
  -- as in TeX, nothing comes between a bar and what it bounds
  made = made:gsub("\\|", " vbar "):gsub("lr%(bar%.v%.double(.-)bar%.v%.double%)", "lr(‖%1‖)")
  made = made:gsub("bar%.v%.double", " vbars "):gsub("∥", " vbars ")
  return kind == "InlineMath" and made:gsub("^%$%s+", "$"):gsub("%s+%$$", "$") or made
end

local function set(macros, tex, kind)  -- nil if pandoc cannot read it
  if FORMAT == "typst" then return for_typst(macros, tex, kind) end
  local made = written(macros .. tex, kind):match("<math.*</math>")
  return made and made:gsub("<annotation.-</annotation>", "")
end

local macros = MACROS  -- and those that formulas have defined so far

local function formula(el)
  if el.classes[1] ~= "math" then return nil end
  local is_display = el.text:match("^%$%$") or el.text:match("^\\\\%[") or el.text:match("^\\begin")
  local tex, defined = parts_of(el)
  macros = macros .. defined
  local made = set(macros, tex, is_display and "DisplayMath" or "InlineMath")
  if is_display and not made then made = set(macros, "\\begin{aligned}" .. tex .. "\\end{aligned}", "DisplayMath") end
  return made and pandoc.RawInline(FORMAT, made) or pandoc.Code(el.text)
end

local function beside(el)  -- several pictures of a paragraph stand side by side where they fit
  local found = {}
  el:walk { Image = function(image) found[#found + 1] = image end }
  return #found > 1 and el:walk { Image = function(image) image.attributes.beside = "true" return image end } or nil
end

local function picture(el)
  local alt = pandoc.utils.stringify(el.caption):gsub("[\\\"]", "\\%0")
  local number, unit = (el.attributes.width or ""):match("^([%d.]+)(%%?)$")
  local width = not number and "auto" or unit == "%" and number .. "%" or tonumber(number) * .75 .. "pt"
  local call = '#picture("%s", "%s", %s, beside: %s);'
  return pandoc.RawInline("typst", call:format(el.src, alt, width, el.attributes.beside or "false"))
end

if FORMAT ~= "typst" then return { { Code = formula } } end
return { { Para = beside, Plain = beside }, { Code = formula, Image = picture } }
