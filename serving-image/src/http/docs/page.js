// Draws /openapi.json. Text only ever enters the page as text (textContent), never as markup.
'use strict';

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolve(contract, schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.slice(2).split('/').reduce((found, name) => found[name], contract);
}

// "number, 0 to 30" and the like.
function describe(schema) {
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(', ');
  if (schema.oneOf) return schema.oneOf.map(describe).join(' or ');
  const parts = [[].concat(schema.type || 'anything').join(' or ')];
  if (schema.minimum !== undefined || schema.maximum !== undefined)
    parts.push(`${schema.minimum ?? '…'} to ${schema.maximum ?? '…'}`);
  if (schema.maxLength !== undefined) parts.push(`at most ${schema.maxLength} characters`);
  if (schema.maxItems !== undefined) parts.push(`${schema.minItems ?? 0} to ${schema.maxItems} of them`);
  if (schema.description) parts.push(schema.description);
  return parts.join(', ');
}

// Every field below a schema, as rows of [name, what it is].
function fields(contract, schema, prefix = '', depth = 0) {
  schema = resolve(contract, schema);
  if (depth > 6) return [];
  if (schema.type === 'array') return fields(contract, schema.items, `${prefix}[]`, depth + 1);
  const required = new Set(schema.required);
  return Object.entries(schema.properties || {}).flatMap(([name, inner]) => {
    inner = resolve(contract, inner);
    const path = prefix ? `${prefix}.${name}` : name;
    const optional = required.has(name) ? '' : ' (optional)';
    return [[path, describe(inner) + optional], ...fields(contract, inner, path, depth + 1)];
  });
}

function table(rows) {
  const cells = rows.map(([name, what]) =>
    element('tr', {}, element('td', {}, element('code', { textContent: name })), element('td', { textContent: what })));
  return element('table', {}, ...cells);
}

// A form that sends the request, and shows what comes back.
function tryIt(method, path, operation, parameters) {
  const form = element('div');
  const url = parameters.reduce(
    (url, { name, schema }) => url.replace(`{${name}}`, encodeURIComponent(schema.enum[0])), path);
  const schema = operation.requestBody?.content['application/json'].schema;
  const body = schema && element('textarea', {
    value: JSON.stringify(schema.example ?? {}, null, 2), spellcheck: false, ariaLabel: 'Body of the request',
  });
  const button = element('button', { textContent: `${method.toUpperCase()} ${url}` });
  const status = element('p');
  const answer = element('pre', { hidden: true });
  button.onclick = async () => {
    const started = performance.now();
    try {
      const response = await fetch(url.slice(1), {
        method: method.toUpperCase(),
        headers: body ? { 'content-type': 'application/json' } : {},
        body: body?.value,
      });
      const text = await response.text();
      const ms = (performance.now() - started).toFixed(1);
      status.className = response.ok ? '' : 'failed';
      status.textContent = `${response.status} ${response.statusText} · ${ms} ms`;
      answer.textContent = text;
      if (/json/.test(response.headers.get('content-type')))
        answer.textContent = JSON.stringify(JSON.parse(text), null, 2);
      answer.hidden = false;
    } catch (error) {
      status.className = 'failed';
      status.textContent = String(error);
    }
  };
  if (body) form.append(body);
  form.append(button, status, answer);
  return form;
}

function draw(contract) {
  document.title = contract.info.title;
  document.getElementById('title').textContent = `${contract.info.title} ${contract.info.version}`;
  document.getElementById('description').textContent = contract.info.description || '';
  for (const [path, item] of Object.entries(contract.paths)) {
    for (const method of ['post', 'get']) {
      const operation = item[method];
      if (!operation) continue;
      const answers = Object.entries(operation.responses).map(([code, { description }]) => [code, description]);
      const request = operation.requestBody?.content['application/json'].schema;
      const success = operation.responses['200']?.content?.['application/json']?.schema;
      const details = element('details', { className: 'path', open: path === '/predict' },
        element('summary', {},
          element('span', { className: `method ${method}`, textContent: method.toUpperCase() }),
          element('code', { textContent: path }), ` ${operation.summary || ''}`));
      if (request) details.append(element('h3', { textContent: 'Request' }), table(fields(contract, request)));
      if (success) details.append(element('h3', { textContent: 'Answer' }), table(fields(contract, success)));
      details.append(element('h3', { textContent: 'Statuses' }), table(answers),
        element('h3', { textContent: 'Try it' }), tryIt(method, path, operation, item.parameters || []));
      document.getElementById('paths').append(details);
    }
  }
}

fetch('openapi.json').then((response) => response.json()).then(draw).catch((error) => {
  document.getElementById('title').textContent = String(error);
});
