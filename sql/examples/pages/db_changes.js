// A component that uses the hooks, as the recipe says: "Call with table name and callback function".

import { createElement as h, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { useTableChanges } from './useWebSocket.js';

function Changes({ tables }) {
  const [changes, setChanges] = useState([]);
  const { isConnected } = useTableChanges(tables, (change) => {
    console.log('change:', change);
    setChanges((earlier) => [change, ...earlier]);
  });
  return h('section', { id: tables.join('-') },
    h('h2', null, tables.join(', ')),
    h('p', { className: 'status' }, isConnected ? 'connected' : 'disconnected'),
    h('ul', null, changes.map((change, index) =>
      h('li', { key: changes.length - index }, `${change.operation} ${change.table} ${JSON.stringify(change.data)}`))));
}

createRoot(document.getElementById('root')).render([
  h(Changes, { key: 'profiles', tables: ['profiles'] }),
  h(Changes, { key: 'others', tables: ['registrations', 'roles'] }),
]);
