// The page of sql/examples/pages/db_changes.js on the client's own hook, which misses nothing: only that hook is another one.

import { createElement as h, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { RowcastProvider, useChanges } from '@rowcast/client/react';

function Changes({ tables }) {
  const [changes, setChanges] = useState([]);
  const { state } = useChanges('db_changes', ({ data: change }) => {
    console.log('change:', change);
    setChanges((earlier) => [change, ...earlier]);
  }, { tables });
  return h('section', { id: tables.join('-') },
    h('h2', null, tables.join(', ')),
    h('p', { className: 'status' }, state === 'live' ? 'connected' : 'disconnected'),
    h('ul', null, changes.map((change, index) =>
      h('li', { key: changes.length - index }, `${change.operation} ${change.table} ${JSON.stringify(change.data)}`))));
}

createRoot(document.getElementById('root')).render(h(RowcastProvider, { url: '/rowcast' },
  h(Changes, { tables: ['profiles'] }),
  h(Changes, { tables: ['registrations', 'roles'] })));
