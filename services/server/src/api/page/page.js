// The page to browse the two documents. Everything it shows is in them; texts go in as text, never as markup.
'use strict';

const documents = {};
const byId = (id) => document.getElementById(id);

/** An element with a class, and children that are elements or texts. */
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A text of a document, with what is between backticks as code. */
function prose(text) {
  return (text || '').split('`').map((part, n) => (n % 2 ? element('code', '', part) : part));
}

function resolve(doc, schema) {
  if (!schema || typeof schema.$ref !== 'string') return [schema, null];
  const steps = schema.$ref.slice(2).split('/');
  return [steps.reduce((at, step) => at?.[step], doc), steps.at(-1)];
}

const last = (ref) => ref.split('/').at(-1);

/** A schema in a few words. */
function typeName(doc, schema) {
  if (schema === true || !schema) return 'anything';
  if (schema.$ref) return last(schema.$ref);
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return 'one of ' + schema.enum.map((one) => JSON.stringify(one)).join(', ');
  const choice = schema.anyOf || schema.oneOf;
  if (choice) return choice.map((one) => typeName(doc, one)).join(' or ');
  if (schema.allOf) return schema.allOf.map((one) => typeName(doc, one)).join(' and ');
  const types = [].concat(schema.type || []);
  if (types.includes('array')) return 'list of ' + typeName(doc, schema.items);
  const format = /^(uuid|date-time)$/.test(schema.format || '') ? ` (${schema.format})` : '';
  return (types.join(' or ') || 'anything') + format;
}

const RULES = ['minimum', 'maximum', 'minLength', 'maxLength', 'minItems', 'maxItems', 'pattern'];

function rules(schema) {
  const has = RULES.filter((rule) => schema?.[rule] !== undefined).map((rule) => `${rule} ${schema[rule]}`);
  return has.length ? element('span', 'rule', ` · ${has.join(', ')}`) : null;
}

/** Whether there is more to see of a schema than its type's name. */
function isDeep(doc, schema) {
  if (!schema || schema === true) return false;
  const [target] = resolve(doc, schema);
  return Boolean(schema.$ref && (target.properties || target.oneOf || target.anyOf || target.allOf || target.pattern)) ||
    Boolean(schema.properties || schema.prefixItems || schema.allOf) ||
    [schema.items, ...(schema.anyOf || []), ...(schema.oneOf || [])].some((one) => one && isDeep(doc, one)) ||
    (typeof schema.additionalProperties === 'object' && isDeep(doc, schema.additionalProperties));
}

/** A part that is made when it is opened: schemas may contain themselves. */
function lazily(label, make) {
  const details = element('details', '', element('summary', '', label));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(make());
  });
  return details;
}

function fieldsOf(doc, schema) {
  const list = element('ul', 'fields');
  const required = schema.required || [];
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const row = element('li', '', element('span', 'field', name), ' ', element('span', 'type', typeName(doc, field)), rules(field),
      required.includes(name) ? element('span', 'must', ' required') : null);
    if (field?.description) row.append(element('span', 'note', ...prose(field.description)));
    if (isDeep(doc, field)) row.append(lazily('show', () => view(doc, field)));
    list.append(row);
  }
  return list;
}

/** A schema as nested lists of fields. */
function view(doc, schema) {
  if (!schema || schema === true) return element('p', 'type', 'anything');
  const [target, name] = resolve(doc, schema);
  const made = element('div', '');
  if (name) {
    made.append(element('p', 'type', element('code', '', name), ' ', ...prose(target.description)));
    made.append(view(doc, { ...target, description: undefined }));
    return made;
  }
  if (schema.properties) made.append(fieldsOf(doc, schema));
  for (const part of schema.allOf || []) made.append(view(doc, part));
  const choice = schema.oneOf || schema.anyOf;
  if (choice) {
    const list = element('ul', 'fields');
    for (const one of choice) {
      const label = one.title || (one.properties?.type?.const ?? typeName(doc, one));
      const row = element('li', '', isDeep(doc, one) ? lazily(label, () => view(doc, one)) : element('code', '', label));
      if (one.description) row.append(element('span', 'note', ...prose(one.description)));
      list.append(row);
    }
    made.append(list);
  }
  if (schema.items) made.append(element('p', 'type', 'each item:'), view(doc, schema.items));
  if (typeof schema.additionalProperties === 'object') made.append(element('p', 'type', 'each value:'), view(doc, schema.additionalProperties));
  if (!made.children.length) made.append(element('p', '', element('code', '', typeName(doc, schema)), rules(schema)));
  return made;
}

function table(rows) {
  const body = element('tbody', '');
  for (const cells of rows) body.append(element('tr', '', ...cells.map((cell) => element('td', '', ...[].concat(cell)))));
  return element('table', '', body);
}

const heading = (text) => element('h3', '', text);

function operationBody(doc, operation) {
  const body = element('div', 'body');
  if (operation.description) body.append(element('p', '', ...prose(operation.description)));
  const scheme = Object.keys(operation.security[0] || {})[0];
  body.append(element('p', 'type', scheme === 'operatorToken' ? 'Needs the token of an operator.'
    : scheme ? 'Needs an access token.' : 'Needs no access token.'));
  if (operation.parameters.length) {
    const row = (one) => [[element('span', 'field', one.name), element('span', 'type', ` in ${one.in}`)],
      [typeName(doc, one.schema), rules(one.schema), one.required ? element('span', 'must', ' required') : null,
        element('span', 'note', ...prose(one.description))]];
    body.append(heading('Parameters'), table(operation.parameters.map(row)));
  }
  const sent = operation.requestBody?.content['application/json'].schema;
  if (sent) body.append(heading(operation.requestBody.required ? 'Body' : 'Body, which may be left out'), view(doc, sent));
  body.append(heading('Answers'));
  body.append(table(Object.entries(operation.responses).map(([status, response]) => {
    const [answer] = resolve(doc, response);
    const shown = Object.entries(answer.content || {}).map(([kind, media]) =>
      kind === 'application/problem+json' ? null
        : isDeep(doc, media.schema) ? lazily(typeName(doc, media.schema), () => view(doc, media.schema)) : element('code', '', kind));
    return [element('span', 'status', status), [...prose(answer.description), ...shown.filter(Boolean)]];
  })));
  return body;
}

function messageBody(doc, message, channel, parties) {
  const body = element('div', 'body');
  const facts = [...parties];
  if (channel['x-jetstream']) {
    const { stream, consumers } = channel['x-jetstream'];
    facts.push(['Stream', stream], ['Consumers', consumers.join(', ') || 'none']);
  }
  if (channel.address && channel.address !== message.name) facts.push(['Subject', channel.address]);
  if (facts.length) body.append(table(facts));
  if (message.headers) body.append(lazily('Headers', () => view(doc, message.headers)));
  body.append(heading('Body'), view(doc, message.payload));
  if (message['x-ack-data']) body.append(heading('Data of its ack'), view(doc, message['x-ack-data']));
  return body;
}

/** What a part of the page lists: `group`, `badge`, `name`, `what`, and how its body is made. */
const PARTS = {
  http() {
    const doc = documents.openapi;
    return Object.entries(doc.paths).flatMap(([path, operations]) => Object.entries(operations).map(([method, operation]) => ({
      group: operation.tags[0], badge: method, name: path, what: operation.summary, make: () => operationBody(doc, operation),
    })));
  },
  socket() {
    const doc = documents.asyncapi;
    const channel = doc.channels.socket;
    return Object.values(channel.messages).map((ref) => {
      const isCommand = last(ref.$ref).startsWith('command.');
      const [message] = resolve(doc, ref);
      return {
        group: isCommand ? 'commands of a client' : 'frames of the server', badge: isCommand ? 'send' : 'receive',
        name: message.name, what: message.summary, make: () => messageBody(doc, message, {}, []),
      };
    });
  },
  operators() {
    const doc = documents.asyncapi;
    return Object.values(doc.channels.operators_stream.messages).map((ref) => {
      const [message] = resolve(doc, ref);
      return { group: 'server-sent events', badge: 'receive', name: message.name, what: message.summary, make: () => messageBody(doc, message, {}, []) };
    });
  },
  nats() {
    const doc = documents.asyncapi;
    const parties = (key, action) => Object.values(doc.operations)
      .filter((one) => one.action === action && last(one.channel.$ref) === key).map((one) => one.tags[0].name).join(', ');
    return Object.entries(doc.channels).filter(([, channel]) => last(channel.servers[0].$ref) === 'nats').flatMap(([key, channel]) =>
      Object.values(channel.messages).map((ref) => {
        const [message] = resolve(doc, ref);
        const isReply = message.name.endsWith('.reply');
        const [from, to] = [parties(key, 'send'), parties(key, 'receive')];
        return {
          group: channel['x-jetstream'] ? 'events, on streams' : 'core subjects', badge: isReply ? 'reply' : 'send',
          name: isReply ? `${channel.address} (reply)` : channel.address, what: message.summary,
          make: () => messageBody(doc, message, channel, [['Sent by', (isReply ? to : from) || 'anybody'], ['Read by', (isReply ? from : to) || 'anybody']]),
        };
      }));
  },
};

const ABOUT = { http: 'openapi', socket: 'asyncapi', operators: 'asyncapi', nats: 'asyncapi' };

function show() {
  const [name, wanted] = location.hash.slice(1).split('/').map(decodeURIComponent);
  const part = PARTS[name] ? name : 'http';
  const words = byId('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.part === part) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const source = ABOUT[part];
  const link = element('a', '', `${source}.json`);
  link.href = `/${source}.json`;
  const about = [element('p', '', ...prose(documents[source].info.description)), element('p', 'type', 'The whole document: ', link)];
  if (part === 'socket') {
    const channel = documents.asyncapi.channels.socket;
    const closes = lazily('Codes of a close by the server', () => table(channel['x-close-codes'].map(({ code, reason }) =>
      [element('span', 'status', String(code)), reason])));
    about.push(element('p', '', element('code', '', channel.address), ': ', ...prose(channel.description)), closes);
  }
  if (part === 'operators') {
    const channel = documents.asyncapi.channels.operators_stream;
    about.push(element('p', '', element('code', '', channel.address), ': ', ...prose(channel.description)));
  }
  byId('about').replaceChildren(...about);
  const found = PARTS[part]().filter((item) => {
    const text = `${item.badge} ${item.name} ${item.what} ${item.group}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  byId('count').textContent = `${found.length} ${part === 'http' ? 'operations' : 'messages'}${words.length ? ' found' : ''}`;
  const groups = [...new Set(found.map((item) => item.group))].sort();
  const rows = groups.flatMap((group) => [element('h2', '', group), ...found.filter((item) => item.group === group).map((item) => {
    const summary = element('summary', '', element('span', `badge ${item.badge}`, item.badge), element('span', 'name', item.name),
      element('span', 'what', ...prose(item.what)));
    const details = element('details', 'item', summary);
    const id = `${item.badge} ${item.name}`;
    details.addEventListener('toggle', () => {
      if (!details.open) return;
      if (details.children.length === 1) details.append(item.make());
      history.replaceState(null, '', `#${part}/${encodeURIComponent(id)}`);
    });
    if (id === wanted) {
      details.open = true;
      requestAnimationFrame(() => details.scrollIntoView());
    }
    return details;
  })]);
  byId('list').replaceChildren(...rows);
}

async function load() {
  const names = ['openapi', 'asyncapi'];
  const answers = await Promise.all(names.map((name) => fetch(`/${name}.json`).then((answer) => answer.json())));
  names.forEach((name, n) => { documents[name] = answers[n]; });
  byId('search').addEventListener('input', show);
  addEventListener('hashchange', show);
  addEventListener('keydown', (event) => {
    if (event.key === '/' && document.activeElement !== byId('search')) {
      event.preventDefault();
      byId('search').focus();
    }
  });
  show();
}

load().catch((error) => byId('list').replaceChildren(element('p', '', `The documents cannot be read: ${error}`)));
